"""Training: optimizer, one jitted step over a device mesh, the loop, checkpoints, logs."""
