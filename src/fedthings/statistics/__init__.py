"""Statistics: what is learned or answered from exact sums, without a gradient step on any device."""
