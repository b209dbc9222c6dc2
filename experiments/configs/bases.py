"""What the experiments share: the small model, and the paper's model, optimizer and presets.

Each experiment of the paper comes in two presets, which compute in bfloat16 (the original: fp16):

  corrected  settings of the paper where they are known to differ from the original's released config file
             (TGIF-QA), else of that file; and this project's behaviour, which docs/fidelity.md compares with
             the original's.
  original   the original's released config file with the quirks of its code: its frame arithmetic, ranking by
             rounded probabilities, its AdamW and schedule, the sum of accumulated gradients; pretraining
             learns words from captions of other images too, and averages over all tokens.
"""

from __future__ import annotations

import dataclasses

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.tasks.open_ended_qa import OpenEndedQA
from clipbert_jax.tasks.task import Task
from clipbert_jax.training.optimizer import OptimizerConfig
from clipbert_jax.training.train_config import TrainConfig
from data_pipelines.data_config import DataConfig
from experiments.experiment import Experiment, InitConfig

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
"""Optimizer of the small model, which starts from random weights."""

FULL_SIZE_MODEL = dataclasses.replace(ClipBertConfig.base(), compute_dtype="bfloat16")
"""ResNet-50 and BERT-base, with the vocabulary of bert-base-uncased."""

PRETRAINED = InitConfig(model="runs/pretraining")
"""Initial weights of the paper's other experiments."""

NUM_GPUS = 8
"""Number of GPUs of the original's pretraining, MSR-VTT retrieval and TGIF-QA; elsewhere an assumption."""


def demo(task: Task, data: DataConfig, *, num_steps: int) -> Experiment:
    """Return an experiment of the small model on generated videos or images."""
    return Experiment(
        model=ClipBertConfig.tiny(),
        task=task,
        data=data,
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(
            num_steps=num_steps,
            batch_size=32,
            log_every_steps=num_steps // 30,
            save_every_steps=num_steps // 3,
        ),
    )


def folder(task: Task) -> Experiment:
    """Return an experiment of the small model on some dozens of a user's own videos."""
    return Experiment(
        model=ClipBertConfig.tiny(vocab_size=0),
        task=task,
        data=DataConfig(
            data_dir="data/mine", num_clips=4, num_frames=2, fps=2.0, size=96, max_text_length=32
        ),
        optimizer=SMALL_OPTIMIZER,
        train=TrainConfig(num_steps=500, batch_size=8, log_every_steps=10, save_every_steps=100),
    )


def full_size(
    task: Task,
    data: DataConfig,
    *,
    videos_per_gpu: int,
    num_epochs: int,
    num_accumulation_steps: int = 1,
    num_validations: int = 20,
    learning_rate: float = 5e-5,
    max_grad_norm: float = 5.0,
    init: InitConfig = PRETRAINED,
) -> Experiment:
    """Return an experiment with the full-size model and AdamW as published.

    Args:
      task: what the model learns.
      data: videos.
      videos_per_gpu: number of videos on one GPU, in one of the accumulated parts of an update.
      num_epochs: passes over the examples.
      num_accumulation_steps: parts of an update.
      num_validations: number of validations, with as many clips as in training; 0 for data without a
        validation split.
      learning_rate: peak learning rate of all parameters.
      max_grad_norm: norm to which gradients are clipped.
      init: initial weights; by default the pretrained ones.
    """
    return Experiment(
        model=FULL_SIZE_MODEL,
        task=task,
        data=data,
        optimizer=OptimizerConfig(
            transformer_learning_rate=learning_rate,
            pixel_encoder_learning_rate=learning_rate,
            max_grad_norm=max_grad_norm,
        ),
        train=TrainConfig(
            num_steps=0,
            num_epochs=float(num_epochs),
            batch_size=videos_per_gpu * NUM_GPUS * num_accumulation_steps,
            num_accumulation_steps=num_accumulation_steps,
            log_every_steps=50,
            num_validations=num_validations,
            num_validation_clips=data.num_clips,
        ),
        init=init,
    )


def image_data(data_dir: str, *, max_text_length: int) -> DataConfig:
    """Return the data of image experiments: videos of one frame, for which `fps` has no meaning."""
    return DataConfig(
        data_dir=data_dir, num_clips=1, num_frames=1, fps=1.0, size=768, max_text_length=max_text_length
    )


def tgif_qa(task: Task, data_dir: str, *, size: int, videos_per_gpu: int, learning_rate: float) -> Experiment:
    """Return an experiment on TGIF-QA, whose presets differ in size, batch and learning rate."""
    return full_size(
        task,
        DataConfig(data_dir=data_dir, num_clips=1, num_frames=1, fps=1.0, size=size, max_text_length=25),
        videos_per_gpu=videos_per_gpu,
        num_epochs=15,
        learning_rate=learning_rate,
    )


def video_qa(data_dir: str, *, num_epochs: int, fps: float = 2.0, max_text_length: int = 100) -> Experiment:
    """Return an experiment on open-ended questions with the settings of MSRVTT-QA."""
    return full_size(
        OpenEndedQA(consensus="log_sum_exp"),
        DataConfig(
            data_dir=data_dir,
            num_clips=8,
            num_frames=2,
            fps=fps,
            size=448,
            max_text_length=max_text_length,
        ),
        videos_per_gpu=16,
        num_epochs=num_epochs,
    )


def as_original(corrected: Experiment, *, num_answers: int = 0) -> Experiment:
    """Return the experiment with the original's behaviour instead of this project's corrections.

    Args:
      corrected: experiment with the original's released settings.
      num_answers: number of outputs of the original's head, if the task has an answer vocabulary.
    """
    # One part has nothing to add up, and a user who accumulates on fewer GPUs wants the original's batch.
    is_summed = corrected.train.num_accumulation_steps > 1
    return dataclasses.replace(
        corrected,
        task=corrected.task.as_original(num_answers),
        data=dataclasses.replace(corrected.data, sampling_rule="original"),
        optimizer=dataclasses.replace(
            corrected.optimizer, algorithm="adamw_original", schedule_rule="original"
        ),
        train=dataclasses.replace(corrected.train, accumulation="sum" if is_summed else "mean"),
    )
