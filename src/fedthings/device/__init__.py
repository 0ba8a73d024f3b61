"""What runs on the thing: the agent, its data and its owner's rules."""
