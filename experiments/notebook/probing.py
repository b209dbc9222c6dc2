"""Computations of the notebooks on attention, consensus and checkpoints."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from clipbert_jax.models.consensus import Consensus
from clipbert_jax.probing.ablation import ProbedExample
from clipbert_jax.probing.faithfulness import map_faithfulness
from clipbert_jax.probing.model_probe import ModelProbe
from clipbert_jax.probing.probe_score import ProbeScore
from data_pipelines.corpus.reader import open_corpus
from data_pipelines.decoding.video import Video
from data_pipelines.sampling import Sampling, choose_frames
from data_pipelines.synthetic.boxes import ObjectTrack, object_boxes
from data_pipelines.synthetic.video_corpus import read_plans
from data_pipelines.tokenizer import Tokenizer
from experiments.notebook.figures import maps_figure
from experiments.notebook.run import NUM_CLIPS
from experiments.pointing.maps import MEAN, MapName, Maps, Points, ablation_losses
from experiments.pointing.videos import PointingVideo, pointing_videos
from experiments.runs.evaluate_run import evaluate
from experiments.runs.load_run import Run

CONSENSUSES: tuple[Consensus, ...] = ("mean", "max", "log_sum_exp")


def first_test_video(run: Run) -> tuple[Video, list[ObjectTrack]]:
    """Return a generated video, and the times and places of its objects."""
    plan = read_plans(run.experiment.data.data_dir, "test")[0]
    return open_corpus(run.experiment.data.data_dir).read(plan.video_id), object_boxes(plan)


def sampled_times(
    run: Run, video: Video, *, counts: Sequence[int], seed: int
) -> dict[str, Float[np.ndarray, "k t"]]:
    """Return the times of the frames of clips, by way of sampling and number of clips."""
    data, rng = run.experiment.data, np.random.default_rng(seed)
    ways: tuple[Sampling, ...] = ("random", "uniform")
    return {
        f"{sampling}, clips: {count}": choose_frames(
            video, num_clips=count, num_frames=data.num_frames, fps=data.fps, sampling=sampling, rng=rng
        ).times
        for sampling in ways
        for count in counts
    }


def probed(run: Run, *, num_videos: int) -> tuple[ModelProbe, list[PointingVideo]]:
    """Return the probe of a run's model, and the first videos of its test split."""
    probe = ModelProbe(run.model(), ProbeScore(run.experiment.task))
    data = run.experiment.data
    grid = probe.grid(np.zeros((1, data.num_frames, data.size, data.size, 3), np.uint8))
    videos = pointing_videos(
        run, data_dir=data.data_dir, split="test", num_clips=NUM_CLIPS, grid=grid, num_videos=num_videos
    )
    return probe, list(videos)


def word_maps_figure(video: PointingVideo, columns: Mapping[str, Maps], tokenizer: Tokenizer) -> Figure:
    """Show a row for each object of the text, in the first clip that shows it, and a column for each map.

    Args:
      video: video whose frames are shown.
      columns: maps by a line for their titles, such as the checkpoint.
      tokenizer: tokenizer that names the objects.
    """
    objects = [place for place in range(len(video.words)) if video.is_shown[place].any()]
    clips = [int(video.is_shown[place].argmax()) for place in objects]
    tokens = tokenizer.split(video.text)
    maps = {
        "\n".join([*str(name).split(", "), *([title] if title else [])]): of_name
        for title, of_title in columns.items()
        for name, of_name in of_title.items()
    }
    return maps_figure(
        video.frames[clips, 0],
        np.stack([of_name[objects, clips] for of_name in maps.values()], axis=1),
        [" ".join(tokens[i] for i in video.words[place]) for place in objects],
        list(maps),
        in_picture=video.in_picture,
        targets=np.stack([video.targets[objects, clips]] * len(maps), axis=1),
    )


def pointing_table(points: Points) -> str:
    """Return a table of how often each map and its controls point at its object."""
    missed = points.missed()
    lines = [
        f"a random cell: {_share(points.chances)}, the best constant cell: {points.constant_hits.mean():.0%}",
        f"of the {len(missed.chances)} of {len(points.chances)} objects that this cell misses (*), "
        f"a random cell: {_share(missed.chances)}",
        "",
        f"{'':26} own word  wrong word  other video      *  other video *",
    ]
    for name, hits in points.hits.items():
        wrong = points.wrong_hits.get(name)
        shares = hits, points.other_hits[name], missed.hits[name], missed.other_hits[name]
        own, other, own_missed, other_missed = map(_share, shares)
        lines.append(
            f"{name!s:26} {own:>8}  {'' if wrong is None else _share(wrong):>10}  {other:>11}  "
            f"{own_missed:>5}  {other_missed:>13}"
        )
    return "\n".join(lines)


def _share(of_cases: Float[np.ndarray, " m"]) -> str:
    return f"{of_cases.mean():.0%}" if len(of_cases) else "none"


def faithfulness_table(probe: ModelProbe, video: PointingVideo, maps: Maps, *, seed: int = 0) -> str:
    """Return a table of the faithfulness of the maps of a video, averaged over its words."""
    losses = ablation_losses(probe, video)
    example = ProbedExample(probe, video.frames, video.text_ids, video.text_mask)
    rng = np.random.default_rng(seed)
    whole = {n: of_words.mean(axis=0) for n, of_words in maps.items() if n.head in (MEAN, None)}
    faithfulness = map_faithfulness(example, whole, losses, rng=rng, picture=video.picture)
    first = next(iter(faithfulness.values()))
    lines = [
        f"{'':26} rank  (misplaced maps)   loss",
        f"{'misplaced maps':26} {'':24} {first.random_loss:5.2f} (95 % below {first.high_loss:.2f})",
    ]
    for name, found in faithfulness.items():
        rank = found.rank
        lines.append(
            f"{name!s:26} {rank.correlation:5.2f} ({rank.low:5.2f} to {rank.high:4.2f}) {found.loss:10.2f}  "
            f"{('no evidence', 'mixed', 'faithful')[rank.is_above_chance + found.is_costlier]}"
        )
    return "\n".join(lines)


def scores_of_texts(
    probe: ModelProbe, video: PointingVideo, texts: Iterable[PointingVideo]
) -> Float[np.ndarray, "m k a"]:
    """Return the scores of the clips of a video for the texts of some videos, before the consensus."""
    tokens = probe.encode(video.frames)
    scored = [probe.score_with_hidden(tokens, text.text_ids, text.text_mask) for text in texts]
    return np.concatenate(scored)


def consensus_probe_scores(run: Run) -> dict[Consensus, ProbeScore]:
    """Return the probe score of the run's task for each consensus."""
    task = run.experiment.task
    return {name: ProbeScore(dataclasses.replace(task, consensus=name)) for name in CONSENSUSES}


def gaps_by_num_clips(
    scores: Float[np.ndarray, "videos texts k a"],
    probe_scores: Mapping[Consensus, ProbeScore],
    *,
    counts: Sequence[int],
    seed: int,
    num_draws: int = 20,
) -> dict[int, dict[str, float]]:
    """Return how far a video's own text is above the best other one, by number of clips and consensus.

    Args:
      scores: scores of each video with the texts of all; its own text is on the diagonal.
      probe_scores: probe scores by consensus.
      counts: numbers of clips, drawn from the k clips.
      seed: seed of the draws.
      num_draws: number of draws for each count; the mean over draws and videos is returned.
    """
    rng = np.random.default_rng(seed)
    own, num_clips = np.eye(len(scores), dtype=bool), scores.shape[2]
    gaps: dict[int, dict[str, float]] = {}
    for count in counts:
        drawn = [rng.permutation(num_clips)[:count] for _ in range(num_draws)]
        flat = np.concatenate([scores[:, :, clips] for clips in drawn]).reshape(-1, count, scores.shape[-1])
        gaps[count] = {}
        for name, probe_score in probe_scores.items():
            numbers = probe_score.of_scores(flat).reshape(num_draws, *own.shape)
            best_other = np.where(own, -np.inf, numbers).max(axis=2)
            gaps[count][name] = float((numbers[:, own] - best_other).mean())
    return gaps


def recalls(run: Run, *, counts: Sequence[int]) -> dict[int, dict[str, float]]:
    """Evaluate a checkpoint on the test split, and return recalls of text-to-video by number of clips.

    The run's own results, which may belong to another checkpoint, stay as they are.
    """
    with tempfile.TemporaryDirectory() as folder:
        evaluated = evaluate(
            run.workdir,
            num_clips=counts,
            step=run.step,
            data_dir=Path(run.experiment.data.data_dir),
            out=Path(folder),
        )
    return {
        count: {
            name: evaluated.evaluations[count].metrics[f"text_to_video/{name}"]
            for name in ("r1", "r5", "r10")
        }
        for count in counts
    }


def only(maps: Maps, *kinds: str, heads: bool = False, layer: int | None = None) -> Maps:
    """Return the maps of some kinds: means over heads or single heads, of one layer or all."""

    def is_wanted(name: MapName) -> bool:
        is_single = name.head not in (MEAN, None)
        return name.kind in kinds and is_single == heads and layer in (None, name.layer)

    return {name: of_name for name, of_name in maps.items() if is_wanted(name)}
