"""How each task is evaluated: what is asked of the videos, and what its scores are worth."""
