"""Compression of reports, as stages: fewer numbers, fewer bits a number, or both one after the other."""
