"""One file per task: what it asks of the model, its loss and how its scores become predictions."""
