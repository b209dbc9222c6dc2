"""Names of earlier versions on the command line, which still work; `cli` replaces them."""

from __future__ import annotations

from collections.abc import Sequence

_RULES = {"ours": "corrected", "released": "original"}

OLD_VALUES = {
    "--data.sampling-rule": _RULES,
    "--task.ranking-rule": _RULES,
    "--optimizer.schedule-rule": _RULES,
    "--rule": _RULES,  # of explain-sampling
    "--to": {"ours": "clipbert_jax"},  # of convert
}
"""Option -> old value -> present value."""

OLD_EXPERIMENTS = {
    f"{name}_{old}": f"{name}_{new}"
    for name in (
        "coco_vg/pretraining",
        "msrvtt/retrieval",
        "didemo/retrieval",
        "activitynet/retrieval",
        "msrvtt/qa",
        "tgif/action",
        "tgif/transition",
        "tgif/frameqa",
        "vqa/v2",
    )
    for old, new in {"paper": "corrected", "released": "original"}.items()
}
"""Old name of an experiment -> present name."""

_OF_EXPERIMENTS = ("train", "estimate")


def replace_old_names(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return arguments of `clipbert` with present names, and the replaced names: old -> present."""
    present, replaced = [], {}
    for before, word in zip(["", *arguments], arguments, strict=False):
        option, equals, value = word.rpartition("=") if word.startswith("-") else (before, "", word)
        new = _present(arguments[0], option, value)
        present.append(f"{option}={new}" if equals else new)
        if new != value:
            replaced[value] = new
    return present, replaced


def _present(command: str, option: str, value: str) -> str:
    if option == "--experiment" or (command in _OF_EXPERIMENTS and not option.startswith("-")):
        return OLD_EXPERIMENTS.get(value, value)
    return OLD_VALUES.get(option.replace("_", "-"), {}).get(value, value)
