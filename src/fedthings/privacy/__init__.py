"""What protects a report, and a model: clipping, masks and shares, noise, and the account of what it costs."""
