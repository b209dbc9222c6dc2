"""The page of a probe as a file: its size, what is in it, and that nothing of the data is markup."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
import zlib

import matplotlib.image
import numpy as np
import pytest

from clipbert_jax.errors import UserError
from experiments.probe import probe_page
from experiments.probe.data import DETAILS, MAX_BYTES, Detail, pack_maps, picture_cells
from experiments.probe.figures import write_probe_figures
from experiments.probe.probe_page import write_probe_page
from experiments.probe.timeline import lay_out
from experiments.probe.verdicts import number, percent, verdict
from experiments.probe.views import WordView
from experiments.reports.words import clock
from tests.experiments.probe.probe_pages import make_faithfulness, make_page, make_words

JPEG = "data:image/jpeg;base64,"
NASTY = "</script><img src=x onerror=\"alert(1)\"> '<script>alert(2)</script>' & 犬が走る עברית"


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def written(path, page):
    write_probe_page(path, page)
    return path.read_text()


def data_of(text):
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)[0])


def unpacked(packed, dtype, shape):
    return np.frombuffer(zlib.decompress(base64.b64decode(packed)), dtype).reshape(shape)


def decoded(maps, shape):
    """What the script makes of a kind of maps: values, and sums over the picture and over padding."""
    units = unpacked(maps["units"], "<f4", shape[:-2])
    values = unpacked(maps["values"], np.uint8, shape) * units[..., None, None]
    return values, *(unpacked(maps[name], "<f4", shape[:-2]) for name in ("onPicture", "onPadding"))


def base_page(**changes):
    words = "ten words of a text of the base model's size"
    options = {"num_clips": 8, "layers": 12, "heads": 12, "grid": (12, 12), "frame_hw": (540, 720)}
    return make_page(words=words, **options | changes)


@pytest.fixture(scope="module")
def base_text(tmp_path_factory):
    return written(tmp_path_factory.mktemp("base") / "page.html", base_page())


def test_a_page_of_the_base_model_fits_with_all_heads(base_text):
    assert len(base_text.encode()) < MAX_BYTES
    assert data_of(base_text)["maps"]["attention"]["heads"] == 13  # and their mean
    assert "single heads are" not in base_text


def test_nothing_comes_from_outside_and_only_the_hashed_script_runs(base_text):
    tags = Tags(base_text).tags
    for _, attributes in tags:
        assert not {name for name in attributes if name.startswith("on")}
        for name in ("src", "href", "action"):
            assert attributes.get(name, JPEG).startswith(JPEG)
    assert "http:" not in base_text
    assert "https:" not in base_text
    scripts = re.findall(r"<script>(.*?)</script>", base_text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert len(scripts) == 1
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_texts_are_never_markup(tmp_path):
    plain = make_page(num_clips=2, facts={"model": "tiny"})
    first, *others = plain.faithfulness.items()
    page = dataclasses.replace(
        plain,
        **dict.fromkeys(["video_name", "text", "question", "consensus"], NASTY),
        words=[dataclasses.replace(word, text=NASTY) for word in plain.words],
        notes=[NASTY],
        facts={NASTY: NASTY},
        faithfulness={NASTY: first[1], **dict(others)},
    )
    ours, theirs = (Tags(written(tmp_path / f"{i}.html", one)) for i, one in enumerate((plain, page)))
    assert [tag for tag, _ in theirs.tags if tag not in ("p", "h1")] == [
        tag for tag, _ in ours.tags if tag not in ("p", "h1")
    ]
    assert sum(NASTY in word for word in theirs.words) > 10
    assert data_of((tmp_path / "1.html").read_text())["words"][1] == NASTY


def test_names_that_are_no_unicode_are_shown_all_the_same(tmp_path):
    page = make_page(video_name="caf\udce9.mp4", facts={"command": "probe caf\udce9.mp4"})
    assert "caf?.mp4" in written(tmp_path / "page.html", page)


def test_it_opens_at_the_clip_that_says_it_most_and_not_at_the_heaviest(tmp_path):
    page = base_page()
    scores, changes = np.linspace(-1, 1, len(page.clips)), np.linspace(5, 0.1, len(page.clips))
    clips = [
        dataclasses.replace(clip, score=float(score), change_without=float(change))
        for clip, score, change in zip(page.clips, scores, changes, strict=True)
    ]
    data = data_of(written(tmp_path / "page.html", dataclasses.replace(page, clips=clips)))
    assert data["start"][0] == len(clips) - 1


def test_maps_come_back_within_a_step_of_their_own_scale(tmp_path):
    page = make_page(grid=(5, 7), num_clips=3)
    page = dataclasses.replace(page, grid_to_text=page.grid_to_text * 1e-6)  # weak maps keep their shape
    data = data_of(written(tmp_path / "page.html", page))
    attention = np.concatenate([page.text_to_grid.mean(axis=1, keepdims=True), page.text_to_grid], axis=1)
    expected = {
        "attention": attention,
        "picture": page.grid_to_text[:, None],
        "gradient": page.gradient_weighted[:, None],
        "rollout": page.rollout[None, None],
    }
    inside = picture_cells(page)
    assert not inside.all()
    for kind, maps in expected.items():
        values, on_picture, on_padding = decoded(data["maps"][kind], maps.shape)
        most = maps.max(axis=(-2, -1), keepdims=True)
        assert (np.abs(values - maps) <= most / 255).all(), kind
        np.testing.assert_allclose(on_picture, maps[..., inside].sum(axis=-1), rtol=1e-4)
        np.testing.assert_allclose(on_padding, maps[..., ~inside].sum(axis=-1), rtol=1e-4)
    cells = unpacked(data["maps"]["ablation"]["values"], "<f4", page.cell_changes.shape)
    np.testing.assert_allclose(cells, page.cell_changes, rtol=1e-6)


def test_tokens_of_a_word_are_one_map():
    page = make_page(words="un ##believ ##able dog", num_clips=1)
    first, last = page.words[0], page.words[-1]
    long = WordView(text="unbelievable", tokens=(1, 2, 3), change_without=-1.0)
    page = dataclasses.replace(page, words=[first, long, dataclasses.replace(long, tokens=(4,)), last])
    maps = pack_maps(page, Detail())
    shape = (3, 5, 1, 4, 7, 7)
    values, *_ = decoded(maps["attention"], shape)
    expected = page.text_to_grid[:, :, :, 1:4].mean(axis=3)
    np.testing.assert_allclose(values[:, 1:, :, 1], expected, atol=expected.max() / 255)
    values, *_ = decoded(maps["picture"], (3, 1, *shape[2:]))
    expected = page.grid_to_text[:, :, 1:4].sum(axis=2)
    np.testing.assert_allclose(values[:, 0, :, 1], expected, atol=expected.max() / 255)


@pytest.mark.parametrize("place", range(1, len(DETAILS)))
def test_what_does_not_fit_is_left_out_step_by_step_and_told(tmp_path, monkeypatch, place):
    page = make_page(num_clips=2, frame_hw=(360, 640), layers=3, heads=8)
    sizes = []
    for detail in DETAILS[place - 1 : place + 1]:
        monkeypatch.setattr(probe_page, "DETAILS", [detail])
        sizes.append(len(written(tmp_path / "page.html", page).encode()))
    assert sizes[1] < sizes[0]
    monkeypatch.setattr(probe_page, "DETAILS", DETAILS)
    monkeypatch.setattr(probe_page, "MAX_BYTES", sizes[1] + 1)
    text = written(tmp_path / "page.html", page)
    assert DETAILS[place].notes[0] in text
    shown = data_of(text)
    has_heads = DETAILS[place].head_steps is not None
    assert shown["maps"]["attention"]["heads"] == (9 if has_heads else 1)
    assert shown["layers"] == ([2, 3] if DETAILS[place].is_last_layers_only else [1, 2, 3])


def test_a_page_that_cannot_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(probe_page, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="probe fewer clips"):
        write_probe_page(tmp_path / "page.html", make_page())
    assert not list(tmp_path.iterdir())


def test_times_are_those_of_a_player():
    assert clock(65, 75) == "1:05"
    assert clock(3665, 14400) == "1:01:05"
    assert clock(2.53, 4) == "0:02.5"
    assert clock(59.96, 300) == "1:00"


def test_clips_stand_where_they_are_in_time():
    timeline = lay_out([[0.0, 10.0], [5.0, 5.0], [90.0, 100.0]], 100.0)
    assert timeline.spans == [(0.0, 0.1), (0.05, 0.0), (0.9, pytest.approx(0.1))]
    assert timeline.places == pytest.approx([0.05, 0.05, 0.95])
    assert timeline.wide_lanes == [2, 1, 2]  # the second lies over the first
    assert [label for _, label in timeline.ticks][:2] == ["0:00", "0:30"]


def test_a_video_of_one_frame_has_a_place_and_many_clips_flow():
    timeline = lay_out([[0.0]] * 6, 0.0)
    assert timeline.places == [0.5] * 6
    assert timeline.wide_lanes == timeline.narrow_lanes == []
    assert timeline.ticks == [(0.5, "0:00.0")]


@pytest.mark.parametrize("duration", [0.04, 0.9, 7, 61, 1000, 14_400, 1_000_000])
def test_ticks_are_few_and_on_the_axis(duration):
    ticks = lay_out([[0.0]], duration).ticks
    assert 1 <= len(ticks) <= 7
    assert len({label for _, label in ticks}) == len(ticks)
    assert all(0 <= place <= 1 + 1e-9 for place, _ in ticks)


@pytest.mark.parametrize(
    ("correlation", "deletion", "level", "said"),
    [
        (0.5, 2.0, "faithful", "in part"),
        (0.7, 2.0, "faithful", "largely"),
        (0.2, 1.3, "faithful", "costs 1.30, against 1.00 for other cells"),
        (0.2, 1.3, "faithful", "weakly"),
        (0.5, 1.0, "mixed", "but hiding the cells that it points to costs 1.00, no more than other cells"),
        (0.1, 2.0, "mixed", "no better than the same map"),
        (0.1, 1.1, "no evidence", "not evidence of what the model uses"),
        (-0.5, 0.2, "no evidence", "worse than the same map"),
    ],
)
def test_a_map_counts_only_if_order_and_deletion_bear_it_out(correlation, deletion, level, said):
    judged = verdict(make_faithfulness(correlation, deletion))
    assert judged.level == level
    assert said in judged.sentence


def test_a_picture_of_few_cells_cannot_tell():
    judged = verdict(make_faithfulness(1.0, 2.0, can_tell=False))
    assert judged.level == "mixed"
    assert "too few cells to tell" in judged.sentence


def test_numbers_are_written_with_true_minus_signs():
    assert number(-0.4213, "+") == "\N{MINUS SIGN}0.42"
    assert number(12.34) == "12.3"
    assert number(0.0) == "0"
    assert number(np.nan) == "\N{EN DASH}"
    assert percent(0.9999) == "> 99.9 %"


def test_numbers_that_are_not_finite_make_a_page_all_the_same(tmp_path):
    page = make_page(num_clips=1, faithfulness={"rollout": make_faithfulness(np.nan, np.nan)})
    clip = dataclasses.replace(page.clips[0], change_without=np.nan)
    page = dataclasses.replace(page, clips=[clip], head_changes=np.full((3, 4), np.nan))
    data = data_of(written(tmp_path / "page.html", page))
    assert data["verdicts"]["rollout"][0] == "no evidence"


def test_the_page_says_which_clip_decided(tmp_path):
    page = make_page(num_clips=3, score=2.0)
    changes = (-0.1, -1.5, 0.4)
    clips = [dataclasses.replace(c, change_without=x) for c, x in zip(page.clips, changes, strict=True)]
    text = written(tmp_path / "page.html", dataclasses.replace(page, clips=clips))
    assert (
        "Clip 2, at 0:30, decided most and pulls it up: without it the score goes from 2.00 to 0.50." in text
    )
    assert "Clip 3, at 0:50, pulls it down most: without it, to 2.40." in text
    clips = [dataclasses.replace(c, change_without=0.001) for c in page.clips]
    assert "No single clip decided" in written(tmp_path / "b.html", dataclasses.replace(page, clips=clips))


def test_a_number_that_is_counted_has_no_probability(tmp_path):
    page = make_page(num_clips=2)
    clips = [dataclasses.replace(clip, probability=None) for clip in page.clips]
    text = written(tmp_path / "page.html", dataclasses.replace(page, probability=None, clips=clips))
    assert "Probability" not in text


def test_figures_are_made_of_any_words(tmp_path):
    words = "$x_1$ \\frac{ incomprehensibilities_of_all_kinds 犬"
    page = make_page(words=words, frame_hw=(160, 90), num_clips=2, layers=2, heads=2)
    rng = np.random.default_rng(0)
    page = dataclasses.replace(page, words=[*make_words(words, rng)[:-1], page.words[-1]])
    paths = write_probe_figures(tmp_path / "figures", page)
    assert [path.name for path in paths] == ["overview.png", "ablation.png", "heads.png"]
    for path in paths:
        picture = matplotlib.image.imread(path)
        assert min(picture.shape[:2]) > 200
        assert (picture[[0, -1]] == 1).all()  # nothing runs over the border
        assert (picture[:, [0, -1]] == 1).all()
