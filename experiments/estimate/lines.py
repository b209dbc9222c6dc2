"""Lines of an estimate; each part names its source: counted, estimated, assumed, or a compiler."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_GB, _MB, _GFLOP = 1e9, 1e6, 1e9
_FULLEST = {
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "recomputed": "in the backward pass",
    "update": "at the update",
}


def estimate_lines(numbers: dict[str, Any], device: str) -> Iterator[str]:
    """Yield the lines of an estimate for a kind of device."""
    shape, num_parts = numbers["shape"], numbers["num_accumulation_steps"]
    parts = f" in each of {num_parts} parts" if num_parts > 1 else ""
    yield (
        f"{numbers['num_devices']} {device}, {shape['num_videos']} videos an update: "
        f"{numbers['videos_at_once']} at once on each device{parts}; {numbers['compute_dtype']}"
    )
    yield (
        f"a video: {_count(shape['num_clips'], 'clip')} of {_count(shape['num_frames'], 'frame')} at "
        f"{shape['height']} px, {_count(shape['num_texts'], 'text')}"
    )
    yield from (f"assumed: {assumption}" for assumption in numbers["assumptions"])
    yield from _counted(numbers)
    yield from _memory(numbers, device)
    yield from _time(numbers, device)


def _counted(numbers: dict[str, Any]) -> Iterator[str]:
    parameters, flops = numbers["parameters"], numbers["flops_per_video"]
    yield "\ncounted in the traced step"
    yield _line(
        "parameters", f"{parameters['total'] / 1e6:,.1f} M", f"{parameters['trained'] / 1e6:,.1f} M trained"
    )
    yield _line("forward", _gflop(flops["forward"]), "GFLOP a video")
    yield _line("backward", _gflop(flops["backward"]), "GFLOP")
    if flops["recomputed"]:
        yield _line("forward again", _gflop(flops["recomputed"]), "GFLOP")
    yield _line("together", _gflop(flops["total"]), "GFLOP")


def _memory(numbers: dict[str, Any], device: str) -> Iterator[str]:
    memory = numbers["memory"]
    yield "\nestimated: memory of one device"
    yield _line("parameters", *_size(memory["parameters"]))
    yield _line("Adam's moments", *_size(memory["optimizer"]))
    yield _line("gradients", *_size(memory["gradients"], ", when all are there"))
    yield _line("activations", *_size(memory["activations"], ", when the backward pass begins"))
    waiting = " ".join(_size(memory["batches_ahead"]))
    yield _line("batch", *_size(memory["batch"], f", and {waiting} for three that wait"))
    yield _line("peak", *_size(memory["peak"], f", {_FULLEST[memory['fullest']]}"))
    yield _line("usable", *_size(memory["usable"], f": {_usable(memory, numbers['device'], device)}"))
    yield from _fit(numbers)


def _usable(memory: dict[str, Any], device: dict[str, Any], name: str) -> str:
    share = f"{100 * memory['usable_share']:.0f} % of {device['memory_bytes'] / _GB:,.0f}"
    if name in ("h100", "h200", "a100"):
        return f"{share}, as JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION is set"
    return f"{share}, an assumption"


def _fit(numbers: dict[str, Any]) -> Iterator[str]:
    memory, at_once = numbers["memory"], numbers["videos_at_once"]
    num_parts = memory["accumulation_that_fits"]
    videos = _count(at_once, "video")
    if memory["fits"]:
        yield f"  {videos} at once fit{'s' if at_once == 1 else ''}"
    elif num_parts:
        yield f"  {videos} at once do not fit; --train.num-accumulation-steps {num_parts} makes them fit"
    else:
        yield f"  {videos} at once {'does' if at_once == 1 else 'do'} not fit, in any number of parts"
    yield f"  most at once on a device, among powers of two: {memory['most_videos_at_once']}"


def _time(numbers: dict[str, Any], device: str) -> Iterator[str]:
    time, decoding = numbers["time"], numbers["decoding"]
    yield f"\ntime; rates of the {device}: {numbers['device']['source']}"
    yield _line(
        "floor",
        f"{time['floor_ms_per_video']:,.2f}",
        "ms a video on one device: counted operations and bytes at these rates",
    )
    yield _line(
        "expected",
        f"{time['videos_per_second_per_device']:,.1f}",
        f"videos/s on one device, {time['videos_per_second']:,.1f} on all: "
        f"{100 * time['expected_share']:.0f} % of the floor's rate, assumed, not measured",
    )
    yield _training(numbers)
    yield _line(
        "decoding",
        f"{decoding['cores']:,}",
        f"cores keep up, at {decoding['core_ms_per_video']:.3g} core-ms a video, assumed (--decode-ms)",
    )


def _training(numbers: dict[str, Any]) -> str:
    hours, num_steps = numbers["time"]["hours"], numbers["time"]["num_steps"]
    if hours is None:
        return _line("training", "?", "hours: epochs of data that is not there; give --num-examples")
    amount, unit = (hours, "hours") if hours >= 1 else (60 * hours, "minutes")
    return _line("training", f"{amount:,.1f}", f"{unit} at that rate, for {num_steps:,} updates")


# ---- Compilers --------------------------------------------------------------------------------------------


def check_lines(check: dict[str, Any]) -> Iterator[str]:
    """Yield what XLA says of the step on a CPU."""
    videos, seconds = _count(check["num_videos"], "video"), f"{check['compile_seconds']:.0f} s"
    yield f"\nXLA for this machine's CPU, a step of {videos} (compiled in {seconds}, nothing was run)"
    yield _line("", "estimate", f"{'XLA':>10}")
    for key, name, scale, unit in (
        ("forward_flops", "forward", _GFLOP, "GFLOP"),
        ("flops", "step", _GFLOP, "GFLOP"),
        ("memory", "memory", *_memory_unit(check["memory"]["compiled"])),
    ):
        yield _compared(name, check[key], scale, unit)
    yield "  XLA leaves out products with padded zeros, and counts elementwise operations, which weigh in"
    yield "  small models; between its arrays in memory there are gaps"


def comparison_lines(comparison: dict[str, Any]) -> Iterator[str]:
    """Yield what the compiler of a device says, beside the estimate."""
    yield (
        f"\nthe compiler for {comparison['target']}, one of {comparison['num_devices']} devices (compiled in "
        f"{comparison['compile_seconds']:.0f} s, nothing was run)"
    )
    yield _line("", "estimate", f"{'compiler':>10}")
    memory_unit = _memory_unit(comparison["program"]["compiled"])
    rows = (
        ("flops", "products", _GFLOP, "GFLOP"),
        ("arguments", "state and batch", *memory_unit),
        ("temporary", "temporary", *memory_unit),
        ("program", "memory", *memory_unit),
        ("traffic", "traffic", *memory_unit),
        ("seconds", "time", 1e-3, "ms: floor, and what the compiler expects"),
    )
    for key, name, scale, unit in rows:
        yield _compared(name, comparison[key], scale, unit)
    yield _line(
        "time of traffic", "", f"{1e3 * comparison['traffic_seconds']:>10,.1f} ms at the device's bandwidth"
    )
    collectives = ", ".join(f"{count} {name}" for name, count in comparison["collectives"].items())
    yield _line("collectives", "", f"{collectives or 'none':>10}")
    yield "  estimated traffic is the least that kernels move; a compiler counts products of a loop once"


def _compared(name: str, pair: dict[str, float | None], scale: float, unit: str) -> str:
    ours, theirs = pair["estimated"], pair["compiled"]
    assert ours is not None
    if theirs is None:
        return _line(name, f"{ours / scale:,.2f}", f"{'':>10} {unit}; the compiler does not say")
    difference = 100 * (ours / theirs - 1)
    return _line(name, f"{ours / scale:,.2f}", f"{theirs / scale:>10,.2f} {unit}, {difference:+.1f} %")


def _line(name: str, value: str, rest: str) -> str:
    return f"  {name:<16}{value:>10} {rest}".rstrip()


def _memory_unit(num_bytes: float) -> tuple[float, str]:
    return (_MB, "MB") if num_bytes < _GB else (_GB, "GB")


def _size(num_bytes: float, rest: str = "") -> tuple[str, str]:
    """Return an amount of memory, and its unit with what follows."""
    scale, unit = _memory_unit(10 * num_bytes)
    return f"{num_bytes / scale:,.2f}", f"{unit}{rest}"


def _gflop(flops: float) -> str:
    return f"{flops / _GFLOP:,.1f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
