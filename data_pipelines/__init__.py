"""The input pipeline: turns video files and annotations on disk into a `clipbert_jax.batch.Batch`."""
