"""The Markdown of a benchmark's record."""

from __future__ import annotations

from typing import Any

from benchmarks.record import table, versions_line

COLUMNS = [
    "workload",
    "batch",
    "ms",
    "rate",
    "ours / peer",
    "share of peak",
    "floor / time",
    "dispatch ms",
    "first call s",
    "peak GiB",
]


def markdown(record: dict[str, Any]) -> str:
    """Return headings, what was run where, and the tables."""
    device = record["device"]
    torch = record["peer_versions"].get("torch")
    parts = [
        f"# Speed ({record['date'][:10]})",
        f"`{record['command']}` on {device['count']} x {device['kind']} ({record['cores']} cores); "
        f"{versions_line(record)}"
        f"{f'; peer: PyTorch {torch}' if torch else '; without PyTorch'}. "
        "Times of one step or call: median (10th to 90th percentile). `ours / peer` compares times: below 1 "
        "ours is faster. `share of peak` counts the products of the model; `floor` is the least time by "
        "`clipbert_jax/costs`. `dispatch` is until the call returns; on a CPU, whose cores then compute "
        "already, it says nothing and is left out: see `make bench-host`.",
        table(
            COLUMNS,
            [_cells(row, has_dispatch=device["platform"] != "cpu") for row in record["rows"]],
        ),
    ]
    for row in record["rows"]:
        if stages := row.get("stages"):
            parts += [f"## Parts of {row['workload']}", _stage_table(stages)]
    return "\n\n".join(parts) + "\n"


def _cells(row: dict[str, Any], *, has_dispatch: bool) -> list[str]:
    ours, peer = row["ours"] or {}, row.get("peer") or {}
    name = row["workload"] + (f": {row['lever']}" if "lever" in row else "")
    if "median_seconds" not in ours:
        problem = "out of memory" if ours.get("out_of_memory") else ours.get("problem", "")
        return [name, str(ours.get("batch_size", "")), problem, *[""] * 7]
    p10, median, p90 = (1e3 * ours[key] for key in ("p10_seconds", "median_seconds", "p90_seconds"))
    ratio = peer.get("problem", "")
    if "median_seconds" in peer:
        ratio = f"{ours['median_seconds'] / peer['median_seconds']:.2f}"
    return [
        name,
        str(ours["batch_size"]),
        f"{median:.1f} ({p10:.1f} to {p90:.1f})",
        f"{ours['items_per_second']:,.1f} {ours['unit']}/s",
        ratio,
        f"{ours['flops_share']:.0%}" if ours["flops_share"] is not None else "",
        f"{ours['floor_share']:.0%}",
        f"{1e3 * ours['dispatch_seconds']:.1f}" if has_dispatch else "",
        f"{ours['first_call_seconds']:.0f}",
        f"{ours['peak_bytes'] / 2**30:.1f}" if ours["peak_bytes"] else "",
    ]


def _stage_table(stages: dict[str, dict[str, float]]) -> str:
    """Return measured milliseconds of each part beside its floor, where the device's rates are known."""
    lines = []
    for name, seconds in stages.items():
        keys = ("forward", "forward_floor", "backward", "backward_floor")
        lines.append([name, *(f"{1e3 * seconds[key]:.2f}" if key in seconds else "" for key in keys)])
    return table(["part", "forward ms", "floor", "backward ms", "floor"], lines)
