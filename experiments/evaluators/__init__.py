"""How each task is evaluated: what each video is asked, and the metrics of the scores."""
