"""The conversation: who is asked what, when, and what is done with the answers. No I/O, no arrays."""
