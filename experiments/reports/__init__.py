"""HTML pages of one file each: of a training run, and of the demo."""
