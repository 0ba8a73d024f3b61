"""Local training: portable models as data, their mathematics in NumPy, and what is measured."""
