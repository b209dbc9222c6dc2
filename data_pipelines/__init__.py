"""From video files and annotations on disk to a `clipbert_jax.batch.Batch`."""
