"""Compiled local training for fedthings: one device at a time, in a core's cache."""

from fedthings_kernels._native import Program, fold, instructions, outputs, sets, supports, train, version

__all__ = ["Program", "fold", "instructions", "outputs", "sets", "supports", "train", "version"]
