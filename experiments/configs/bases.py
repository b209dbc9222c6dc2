"""What the experiments share: the small model's demos, and the paper's model and optimizer."""

from __future__ import annotations

from clipbert_jax.training.optimizer import OptimizerConfig
from data_pipelines.data_config import DataConfig

DEMO_VIDEOS = DataConfig(
    data_dir="data/demo", num_clips=4, num_frames=1, fps=2.0, size=48, max_text_length=12
)
"""Generated videos."""

DEMO_IMAGES = DataConfig(
    data_dir="data/demo_images", num_clips=1, num_frames=1, fps=2.0, size=48, max_text_length=16
)
"""Generated images of the same objects."""

SMALL_OPTIMIZER = OptimizerConfig(
    transformer_learning_rate=1e-3, pixel_encoder_learning_rate=1e-3, max_grad_norm=1.0
)
"""For the small model, which starts from nothing."""
