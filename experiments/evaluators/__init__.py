"""Evaluators of all tasks: the questions to each video, and the metrics of the scores."""
