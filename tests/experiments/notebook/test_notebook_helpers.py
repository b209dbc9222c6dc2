from __future__ import annotations

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from clipbert_jax.probing.probe_score import ProbeScore
from clipbert_jax.tasks.retrieval import Retrieval
from data_pipelines.synthetic.drawing import COLOURS, OBJECTS
from experiments.notebook.figures import bars_figure, maps_figure, times_figure
from experiments.notebook.probing import CONSENSUSES, gaps_by_num_clips, only
from experiments.notebook.states import images_of_one, images_of_some
from experiments.pointing.maps import MapName

SIZE = 24


def test_a_map_lights_its_place_and_padding_is_hatched():
    frames = np.full((1, SIZE, SIZE, 3), 200, np.uint8)
    maps = np.zeros((1, 1, 3, 3))
    maps[0, 0, 1, 2], maps[0, 0, 0, 0] = 4.0, -1.0
    in_picture = np.array([[True] * 3, [True] * 3, [False] * 3])
    targets = maps > 0
    figure = maps_figure(frames, maps, ["word"], ["map"], in_picture=in_picture, targets=targets)
    (ax,) = figure.axes
    lit = ax.images[0].get_array()
    assert lit[8:16, 16:].min() == 200
    assert lit[:8].max() == lit[16:].max() == lit[8:16, :16].max() == 40
    hatched = [patch for patch in ax.patches if patch.get_hatch()]
    assert sorted(patch.get_xy() for patch in hatched) == [(0, 16), (8, 16), (16, 16)]
    (outlined,) = [patch for patch in ax.patches if isinstance(patch, Rectangle) and not patch.get_hatch()]
    assert (outlined.get_xy(), outlined.get_width(), outlined.get_height()) == ((16, 8), 8, 8)
    (dot,) = ax.lines
    assert (dot.get_xdata()[0], dot.get_ydata()[0]) == (20, 12)


def test_bars_are_as_high_as_they_should_be():
    figure = bars_figure({"a": {"x": 1.0, "y": -2.0}, "b": {"x": 3.0}}, "score", line=0.5)
    (ax,) = figure.axes
    heights = [patch.get_height() for patch in ax.patches]
    assert heights[:3] == [1, 3, -2]
    assert np.isnan(heights[3])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b"]


def test_clips_are_drawn_at_their_times():
    times = {"random": np.array([[1.0], [3.0]]), "uniform": np.array([[2.0]])}
    figure = times_figure(4.0, [], times)
    drawn = [line.get_xdata().tolist() for line in figure.axes[0].lines]
    assert drawn == [[1.0, 3.0], [2.0]]


def test_maps_are_chosen_by_kind_head_and_layer():
    names = [MapName("word", layer, head) for layer in (1, 2) for head in (1, 2, "mean")]
    maps = dict.fromkeys([*names, MapName("word, rollout")], np.zeros((1, 1, 2, 2)))
    assert list(only(maps, "word")) == [MapName("word", 1, "mean"), MapName("word", 2, "mean")]
    assert list(only(maps, "word", heads=True, layer=2)) == [MapName("word", 2, 1), MapName("word", 2, 2)]
    assert list(only(maps, "word, rollout")) == [MapName("word, rollout")]


def test_gaps_are_between_the_right_text_and_the_best_other():
    """Two videos, three clips that say the same: the number of clips and the consensus cannot matter."""
    numbers = np.array([[2.0, -1.0], [0.5, 3.0]])  # videos, texts: log-odds of a match
    scores = np.stack([np.zeros_like(numbers), numbers], axis=-1)[:, :, None]
    scores = np.repeat(scores, 3, axis=2).astype(np.float32)
    targets = {name: ProbeScore(Retrieval(consensus=name)) for name in CONSENSUSES}
    gaps = gaps_by_num_clips(scores, targets, counts=(1, 3), seed=0, num_draws=2)
    assert list(gaps) == [1, 3]
    for of_count in gaps.values():
        assert list(of_count.values()) == pytest.approx([(3.0 + 2.5) / 2] * 3, abs=1e-5)


def test_more_clips_help_the_one_that_knows():
    """One clip of four knows the right text; the others say nothing."""
    scores = np.zeros((2, 2, 4, 2), np.float32)
    scores[[0, 1], [0, 1], 1, 1] = 8.0
    probe_score = {"max": ProbeScore(Retrieval(consensus="max"))}
    gaps = gaps_by_num_clips(scores, probe_score, counts=(1, 2, 4), seed=0, num_draws=400)
    assert [gaps[count]["max"] for count in (1, 2, 4)] == pytest.approx([2.0, 4.0, 8.0], abs=0.8)


def test_images_show_what_is_said_of_them():
    images = images_of_one(SIZE * 2, num_of_each=1, seed=0)
    assert len(images.frames) == len(set(images.names)) == 42
    for frame, shows, colour, shape in zip(
        images.frames.astype(int), images.shows, images.colour, images.shape, strict=True
    ):
        assert shows == f"a {list(COLOURS)[colour]} {list(OBJECTS)[shape]}"
        near = {name: (abs(frame - rgb).max(axis=-1) < 20).sum() for name, rgb in COLOURS.items()}
        near["black"] -= (frame == 0).all(axis=-1).sum()  # padding
        assert max(near, key=near.__getitem__) == list(COLOURS)[colour]
    assert (images.count == 1).all()


def test_images_of_some_have_each_number_as_often():
    images = images_of_some(SIZE, num_of_each=4, seed=0)
    assert np.bincount(images.count).tolist() == [0, 4, 4, 4]
    assert [shows.count(",") + 1 for shows in images.shows] == images.count.tolist()
