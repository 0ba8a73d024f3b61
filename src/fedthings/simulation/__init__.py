"""The same federation in virtual time."""
