"""Weights by name: ours as a flat dict, and to and from the names of the original."""
