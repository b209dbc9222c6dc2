"""Names of earlier versions on the command line, which still work; `cli` replaces them."""

from __future__ import annotations

from collections.abc import Sequence

from clipbert_jax.renames import FIELDS, RULES, VALUES, Path


def _option(path: Path) -> str:
    return f"--{'.'.join(path)}".replace("_", "-")


OLD_OPTIONS = {_option(path): _option((*path[:-1], name)) for path, name in FIELDS.items()}
"""Old option -> present option."""

OLD_VALUES = {
    **{_option(path): names for path, names in VALUES.items()},
    "--rule": RULES,  # of explain-sampling
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

OF_EXPERIMENTS = ("train", "estimate")
"""Commands that take the name of an experiment, and its settings as options."""


def replace_old_names(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return arguments of `clipbert` with present names, and the replaced names: old -> present."""
    present: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            new_option = OLD_OPTIONS.get(option.replace("_", "-"), option)
            present.append(f"{new_option}{equals}{_present_value(arguments[0], option, value)}")
        else:
            present.append(_present_value(arguments[0], before, word))
    replaced = {old: new for old, new in zip(arguments, present, strict=True) if old != new}
    return present, replaced


def _present_value(command: str, option: str, value: str) -> str:
    if option == "--experiment" or (command in OF_EXPERIMENTS and not option.startswith("-")):
        return OLD_EXPERIMENTS.get(value, value)
    return OLD_VALUES.get(option.replace("_", "-"), {}).get(value, value)
