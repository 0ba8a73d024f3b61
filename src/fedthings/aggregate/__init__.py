"""Combining reports: exact folds and server steps."""
