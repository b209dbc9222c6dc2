"""The model: read `clipbert.py` first."""
