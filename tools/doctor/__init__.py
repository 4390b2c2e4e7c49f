"""Finds the faults of a node, each with its cure. Reads, never changes."""
