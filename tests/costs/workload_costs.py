"""Costs of the benchmark's workloads."""

from __future__ import annotations

from benchmarks.workloads import Workload
from clipbert_jax.costs.model import Costs, model_costs
from clipbert_jax.costs.sizes import BatchShape
from clipbert_jax.costs.work import Assumptions


def costs_of(workload: Workload, **assumptions: bool) -> Costs:
    shape = BatchShape(
        num_videos=workload.batch_size,
        num_clips=workload.num_clips,
        num_frames=workload.num_frames,
        height=workload.size,
        width=workload.size,
        num_texts=workload.num_texts,
        text_length=workload.text_length,
        num_sampled_tokens=workload.task.num_sampled_tokens if workload.kind == "train" else 0,
        is_training=workload.kind == "train",
        encodes_video=workload.kind != "pairs",
    )
    return model_costs(workload.model, workload.task.head, shape, Assumptions(**assumptions))
