"""Timings of the compiled train step and of inference, on whatever device is there."""
