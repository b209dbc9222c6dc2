"""What a ClipBERT costs and how fast a device could be: read `model.py` first."""
