"""Pointing game on generated videos: does a map of attention fall on the object that a word names?

    python -m experiments.pointing.run runs/demo

It scores every object of every test video, in every clip that shows it, with the video's own caption. A map
hits if its largest cell has its centre in the object's box. Chance is a random cell of the picture; a dot in
the middle beats it. So maps are also judged on the objects that the best constant cell misses, which is the
cell that hits most objects of the other videos. There are three controls: maps of other videos, which have
not seen this one; the map of another word of the caption, whose object the clip does not show; and the same
model before its training. The faithfulness of the maps is measured by ablation.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError
from clipbert_jax.probing.model_probe import ModelProbe
from clipbert_jax.probing.probe_score import ProbeScore
from experiments.experiment import make_model
from experiments.input_checks import MAX_CLIPS, check_out_file, check_range
from experiments.pointing.faithfulness import faithfulness_by_video, passed, summary
from experiments.pointing.maps import (
    MapName,
    Points,
    count_hits,
    find_cases,
    look_at,
    play,
    shares_with_intervals,
)
from experiments.pointing.videos import pointing_videos
from experiments.runs.evaluate_run import run_factors
from experiments.runs.load_run import Run, load_run
from experiments.runtime.compilation_cache import use_compilation_cache
from experiments.runtime.progress import Progress, say
from experiments.runtime.provenance import write_json

WANTED_RATIO = 2.0
"""Multiple of chance that a map must reach, where the constant cell misses, to count as finding objects."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Game:
    """Settings of the pointing game."""

    data_dir: str | None = None
    """Directory of generated videos; default: that of the run."""
    split: str = "test"
    """Split of these videos."""
    num_clips: int = 8
    """Number of clips per video."""
    num_videos: int | None = None
    """Number of videos, from the first on; default: all."""
    num_agreement_videos: int = 40
    """Number of videos for faithfulness."""
    seed: int = 0
    """Seed of the untrained model, of shuffles and of the bootstrap."""

    def data_dir_of(self, run: Run) -> str:
        """Return the directory of the videos."""
        return self.data_dir or run.experiment.data.data_dir


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options(Game):
    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of a retrieval model."""
    out: Path | None = None
    """JSON file to write; default: pointing.json in the run directory."""


def pointing(run: Run, game: Game) -> dict[str, Any]:
    """Play the pointing game, and return all numbers as JSON values.

    Raises:
      UserError: the model does not match texts with videos, or the videos were not generated.
    """
    task = run.experiment.task
    if task.answer_form != "match":
        raise UserError(
            f"{run.workdir} is a model of {run.experiment.task_name}, and the pointing game needs one "
            "that matches texts: give a model of retrieval, such as runs/demo"
        )
    probe_score = ProbeScore(task)
    trained = ModelProbe(run.model(), probe_score)
    train = dataclasses.replace(run.experiment.train, seed=game.seed)
    untrained = ModelProbe(make_model(dataclasses.replace(run.experiment, train=train)), probe_score)
    size, num_frames = run.experiment.data.size, run.experiment.data.num_frames
    grid = trained.grid(np.zeros((1, num_frames, size, size, 3), np.uint8))
    videos = list(
        pointing_videos(
            run,
            data_dir=game.data_dir_of(run),
            split=game.split,
            num_clips=game.num_clips,
            grid=grid,
            num_videos=game.num_videos,
        )
    )
    progress = Progress("pointing", total=2 * len(videos), unit="videos")
    done = iter(range(1, 2 * len(videos) + 1))
    looked_at = look_at(trained, videos, lambda: progress.update(next(done)))
    some = [*itertools.islice(looked_at, game.num_agreement_videos)]
    points = count_hits(find_cases(itertools.chain(some, looked_at)))
    of_untrained = play(untrained, videos, lambda: progress.update(next(done)))
    agreement = faithfulness_by_video(some, seed=game.seed)
    of_other_videos = faithfulness_by_video(some, seed=game.seed, of_other_videos=True)
    return {
        **without_looking(points, seed=game.seed),
        "missed": without_looking(points.missed(), seed=game.seed),
        "maps": map_numbers(points, of_untrained, seed=game.seed),
        "agreement": [
            {
                **name._asdict(),
                **summary(of_videos, seed=game.seed),
                "other_video": passed(of_other_videos.get(name, {})),
            }
            for name, of_videos in agreement.items()
        ],
        "grid": list(grid),
        "num_videos": len(videos),
        "share_of_cases_without_a_cell": float((points.chances == 0).mean()),
    }


def without_looking(points: Points, *, seed: int) -> dict[str, Any]:
    """Return the number of cases and the hits of a random and the best constant cell; None without cases."""
    if not points.video_of_case:
        return {"num_cases": 0, "chance": None, "constant_cell": None}
    constant = shares_with_intervals({"cell": points.constant_hits}, points.video_of_case, seed=seed)
    return {
        "num_cases": len(points.video_of_case),
        "chance": float(points.chances.mean()),
        "constant_cell": constant["cell"],
    }


def map_numbers(points: Points, untrained: Points, *, seed: int) -> list[dict[str, Any]]:
    """Return the hits and controls of each map, for all cases and for those that the constant cell misses."""
    missed, missed_untrained = points.missed(), untrained.missed()
    return [
        {
            **name._asdict(),
            **_shares(name, points, untrained, seed),
            # None if no object can be hit.
            "missed": _shares(name, missed, missed_untrained, seed) if missed.chances.any() else None,
        }
        for name in points.hits
    ]


def _shares(name: MapName, points: Points, untrained: Points, seed: int) -> dict[str, Any]:
    wrong = {"wrong_word": points.wrong_hits[name]} if name in points.wrong_hits else {}
    values = {
        "own": points.hits[name],
        "other_video": points.other_hits[name],
        "untrained": untrained.hits[name],  # the cases are the same
        **wrong,
    }
    shares = shares_with_intervals(values, points.video_of_case, seed=seed)
    own = shares.pop("own")
    ratio = own["accuracy"] / float(points.chances.mean())
    return {**own, "times_chance": ratio, "wrong_word": None, **shares}


def table(numbers: Mapping[str, Any]) -> str:
    """Return the numbers as Markdown, in percent."""
    missed = numbers["missed"]
    lines = [
        f"All: {numbers['num_cases']} objects in clips of {numbers['num_videos']} videos, "
        f"{numbers['grid'][0]} x {numbers['grid'][1]} cells. {_without_looking(numbers)}",
        f"Missed: the {missed['num_cases']} of these that this cell misses. {_without_looking(missed)} "
        "The last three columns are for these cases too.",
        "",
        "| map | all, % | times chance | missed, % | times chance | another video's map, % | wrong word, % | "
        "untrained, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in numbers["maps"]:
        cells = [_name(row), _percent(row), f"{row['times_chance']:.2f}"]
        if (of_missed := row["missed"]) is not None:
            controls = [of_missed[name] for name in ("other_video", "wrong_word", "untrained")]
            cells += [_percent(of_missed), f"{of_missed['times_chance']:.2f}"]
            cells += ["" if control is None else f"{100 * control['accuracy']:.1f}" for control in controls]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Faithfulness, {numbers['agreement'][0]['num_videos']} videos; losses are in log-odds of "
        "the match, without the tenth of the cells that the map ranks first. The last two columns are for "
        "another video's map, which has not seen this one.",
        "",
        "| map | rank correlation | above chance, % of videos | loss | more than misplaced maps | "
        "above 95 % of these, % of videos | both, % | another video's loss, % | both, % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in numbers["agreement"]:
        intervals, other = row["intervals"], row["other_video"]
        lines.append(
            f"| {_name(row)} | {_number(row['rank_correlation'], intervals['rank_correlation'])} | "
            f"{_whole_percent(row['share_above_chance'])} | {row['loss']:.2f} | "
            f"{_number(row['extra_loss'], intervals['extra_loss'])} | "
            f"{_whole_percent(row['share_costlier'])} | {_whole_percent(row['share_borne_out'])} | "
            f"{_whole_percent(other['share_costlier'])} | {_whole_percent(other['share_borne_out'])} |"
        )
    return "\n".join(lines)


def conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return which maps find objects that the constant cell misses, and which know their word."""
    judged = [(_name(row), row["missed"]) for row in rows if row["missed"] is not None]
    if not judged:
        return "The best constant cell misses no object that can be hit, so no map can do better."
    name, best = max(judged, key=lambda one: one[1]["accuracy"])
    reaches = "at least" if best["times_chance"] >= WANTED_RATIO else "less than"
    seeing = "; ".join(name for name, of_missed in judged if follows_its_video(of_missed)) or "none"
    knowing = "; ".join(name for name, of_missed in judged if knows_its_word(of_missed)) or "none"
    return (
        f"Best of {len(rows)} maps where the constant cell misses, chosen on these videos: {name}, "
        f"{best['times_chance']:.2f} times chance, {reaches} {WANTED_RATIO:g}.\n"
        f"Clearly better there than the maps of other videos: {seeing}.\n"
        f"And clearly better than with a wrong word: {knowing}."
    )


def follows_its_video(shares: Mapping[str, Any]) -> bool:
    """Return whether a map is clearly better than that of another video."""
    return shares["low"] > shares["other_video"]["high"]


def knows_its_word(shares: Mapping[str, Any]) -> bool:
    """Return whether a map is clearly better than with a wrong word too."""
    wrong = shares["wrong_word"]
    return follows_its_video(shares) and wrong is not None and shares["low"] > wrong["high"]


def _without_looking(numbers: Mapping[str, Any]) -> str:
    if numbers["chance"] is None:
        return ""
    return (
        f"Chance is {100 * numbers['chance']:.1f} %; the best constant cell for them, chosen on the other "
        f"videos, hits {_percent(numbers['constant_cell'])} %."
    )


def _name(row: Mapping[str, Any]) -> str:
    return str(MapName(row["kind"], row["layer"], row["head"]))


def _percent(share: Mapping[str, float]) -> str:
    return f"{100 * share['accuracy']:.1f} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def _whole_percent(share: float | None) -> str:
    return "cannot tell" if share is None else f"{100 * share:.0f}"


def _number(value: float, interval: Sequence[float]) -> str:
    return f"{value:.2f} ({interval[0]:.2f} to {interval[1]:.2f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, play, print the table and write the file."""
    options = tyro.cli(
        _Options, prog="python -m experiments.pointing.run", description=__doc__, args=arguments
    )
    check_range("--num-clips", options.num_clips, 1, MAX_CLIPS)
    check_range("--num-agreement-videos", options.num_agreement_videos, 1)
    check_range("--seed", options.seed, 0)
    if options.num_videos is not None:
        check_range("--num-videos", options.num_videos, 1)
    run = load_run(options.run)
    out = options.out or run.workdir / "pointing.json"
    if out.suffix != ".json":
        raise UserError(f"--out {out} must end in .json")
    check_out_file(out, [".json"])
    numbers = pointing(run, options)
    data = dataclasses.replace(run.experiment.data, data_dir=options.data_dir_of(run))
    factors = {"split": options.split, "num_clips": options.num_clips, **run_factors(run, data)}
    factors |= {"seed": options.seed, "training_seed": run.experiment.train.seed}
    write_json(out, {**numbers, "run": factors})
    say(table(numbers))
    say(conclusion(numbers["maps"]))
    say(f"results: {out}")


if __name__ == "__main__":
    try:
        use_compilation_cache()
        main()
    except UserError as error:
        print(f"pointing: {error}", file=sys.stderr)
        sys.exit(2)
