"""What training asks of devices: operations, the time that they take at least, and the batches that fit.

Beside the path of a batch; `clipbert estimate` prints it. Operations and bytes are counted (`model.py`),
memory is estimated (`memory.py`), rates of devices are measured or their makers' (`devices.py`).
"""

from __future__ import annotations

import dataclasses

from clipbert_jax.costs.devices import Device, Platform, roofline
from clipbert_jax.costs.model import Costs, model_costs
from clipbert_jax.costs.work import LayerCost
from clipbert_jax.training.train_program import TrainSetting
from experiments.estimate.memory import train_memory

USABLE_SHARE: dict[Platform, float] = {"gpu": 0.75, "tpu": 0.95, "cpu": 0.75}
"""Of a device's memory. On GPUs it is what JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amounts:
    """Operations, or seconds, of an update by what they are for."""

    forward: int | float
    backward: int | float
    recomputed: int | float
    """Of the forward pass again, for rematerialisation and passes over clips."""
    update: int | float = 0

    @property
    def total(self) -> int | float:
        """All together."""
        return self.forward + self.backward + self.recomputed + self.update


def step_flops(setting: TrainSetting) -> Amounts:
    """Return the operations of one update, over all devices; a multiplication with its addition is 2."""
    layers = model_costs(setting.model, setting.task.head, setting.shape).layers
    return Amounts(
        forward=sum(layer.forward.flops for layer in layers),
        backward=sum(layer.input_gradient.flops + layer.weight_gradient.flops for layer in layers),
        recomputed=sum(times_recomputed(setting, layer) * layer.forward.flops for layer in layers),
    )


def step_floor(setting: TrainSetting, device: Device, num_devices: int = 1) -> Amounts:
    """Return the least seconds of one update, by the roofline of one of so many devices.

    What the devices exchange is left out: it can be hidden behind the backward pass.
    """
    num_parts, costs = setting.train.num_accumulation_steps, _costs_of_part(setting, num_devices)
    times = roofline(costs, device)
    recomputed = sum(
        times_recomputed(setting, layer) * time.works["forward"].seconds
        for layer, time in zip(costs.layers, times.layers, strict=True)
        if "forward" in time.works
    )
    return Amounts(
        forward=num_parts * times.total.forward,
        backward=num_parts * times.total.backward,
        recomputed=num_parts * recomputed,
        update=times.total.update / (setting.mesh.fsdp * setting.mesh.tensor),
    )


def step_bytes(setting: TrainSetting, num_devices: int = 1) -> int:
    """Return what one of so many devices moves to and from its memory in an update, at least."""
    layers = _costs_of_part(setting, num_devices).layers
    of_part = sum(
        work.total_bytes * (1 + times_recomputed(setting, layer) * (name == "forward"))
        for layer in layers
        for name, work in layer.works.items()
        if name != "update"
    )
    return setting.train.num_accumulation_steps * of_part + sum(layer.update.total_bytes for layer in layers)


def _costs_of_part(setting: TrainSetting, num_devices: int) -> Costs:
    """Return the costs of what a device goes through at once, with an update."""
    shape, num_parts = setting.shape, setting.train.num_accumulation_steps * num_devices
    shape = dataclasses.replace(shape, num_videos=-(-shape.num_videos // num_parts))
    return model_costs(setting.model, setting.task.head, shape)


def times_recomputed(setting: TrainSetting, layer: LayerCost) -> int:
    """Return how often the step computes a layer again for its gradients."""
    train, is_trained = setting.train, layer.input_gradient.flops + layer.weight_gradient.flops > 0
    if layer.stage == "optimizer":
        return 0
    num_passes = int(0 < train.clips_per_pass < setting.shape.num_clips)
    if train.remat == "full":
        return num_passes + int(layer.stage == "fusion" or (layer.stage.startswith("res") and is_trained))
    if train.remat == "dots":  # products of weights are kept
        return num_passes + int(layer.stage == "fusion" and layer.num_trained == 0)
    return num_passes


def fits(setting: TrainSetting, device: Device, platform: Platform, num_devices: int = 1) -> bool:
    """Return whether training fits the memory of each device, or rather the share that is for it."""
    assert device.memory_bytes is not None
    usable = USABLE_SHARE[platform] * device.memory_bytes
    return train_memory(setting, platform, num_devices).peak <= usable


def largest_part(setting: TrainSetting, device: Device, platform: Platform, num_devices: int = 1) -> int:
    """Return how many videos at once a device can take at most, as a power of two; 0 if none."""
    num_parts = setting.train.num_accumulation_steps * num_devices

    def fits_with(num_videos: int) -> bool:
        return fits(setting.with_batch_size(num_videos * num_parts), device, platform, num_devices)

    num_videos = 1
    while num_videos <= _MAX_VIDEOS and fits_with(num_videos):
        num_videos *= 2
    return num_videos // 2


def accumulation_that_fits(
    setting: TrainSetting, device: Device, platform: Platform, num_devices: int = 1
) -> int | None:
    """Return the fewest parts in which the batch fits the devices; None if not even single videos do."""
    videos_of_device = setting.shape.num_videos // num_devices
    for num_parts in range(1, videos_of_device + 1):
        if videos_of_device % num_parts:
            continue
        train = dataclasses.replace(setting.train, num_accumulation_steps=num_parts)
        if fits(dataclasses.replace(setting, train=train), device, platform, num_devices):
            return num_parts
    return None


_MAX_VIDEOS = 1 << 16  # where nobody would go on looking
