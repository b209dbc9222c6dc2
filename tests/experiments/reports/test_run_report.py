"""The page of a run: of any run, with nothing from outside, and nothing of the data as markup."""

import base64
import hashlib
import html.parser
import json
import re

import pytest

from clipbert_jax.training.metrics_writer import read_json_lines
from experiments.cli import main
from experiments.reports.run_report import write_run_report
from experiments.reports.run_summary import read_run
from experiments.reports.samples import read_samples, sample_of
from tests.experiments.conftest import OF_IMAGES, fails
from tests.experiments.run_files import record, start, write, write_lines, write_run

NASTY = "<script>alert('a')</script> & \"more\""


class Page(html.parser.HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text):
        super().__init__()
        self.text, self.tags, self.words = text, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("style", "script"):
            self.words.append(data)

    @property
    def said(self):
        return " ".join(" ".join(self.words).split())

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def report(folder):
    out = folder / "page.html"
    write_run_report(read_run(folder), out)
    return Page(out.read_text())


@pytest.fixture
def nasty(tmp_path):
    """A run in which every text that the page shows is markup."""
    folder = write_run(
        tmp_path / NASTY.replace("/", "|"),
        checkpoints=(20,),
        data__data_dir=NASTY,
        starts=[start(command=f"train {NASTY}", how=f"failed: {NASTY}", ended=NASTY, device=NASTY)],
    )
    lines = [record(10, 0.5, **{f"loss/{NASTY}": 1}), {"step": 10, f"validation/{NASTY}": 1.0}]
    write_lines(folder / "metrics.jsonl", lines)
    results = {"metrics": {"8": {NASTY: 1.0}}, "baseline": {NASTY: 0.5}, "run": {"task": NASTY}}
    write(folder / "results.json", results)
    clip = {"answer": NASTY, "probability": 0.5, "probability_of_prediction": 0.25}
    answer = {"question": NASTY, "answer": NASTY, "video_id": NASTY, "clips": [clip]}
    answer["predicted"] = [{"answer": NASTY, "probability": 0.5}]
    write_lines(folder / "predictions-test-8-clips.jsonl", [answer])
    return folder


def test_text_from_data_is_escaped(nasty):
    page = report(nasty)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.text.count("<script>") == 1
    assert page.said.count(NASTY) > 10
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_the_page_needs_nothing_from_outside_and_runs_its_own_script_only(nasty):
    page = report(nasty)
    sources = [value for name in ("src", "href", "action", "data") for value in page.attributes(name)]
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "url(" not in page.text
    assert "@import" not in page.text
    (policy,) = (attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    script = re.search(r"<script>(.*)</script>", page.text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )


def test_a_run_that_was_killed_in_the_middle_of_a_line_is_shown_up_to_there(tmp_path):
    folder = write_run(tmp_path / "a", losses=(0.5, float("nan"), 0.125), checkpoints=(20,))
    write_lines(folder / "nonfinite_steps.jsonl", [{"step": 17, "examples": []}])
    lines = [record(10, 0.5), record(20, "nan", num_skipped=10), record(30, 0.125, mfu=0.375)]
    write_lines(folder / "metrics.jsonl", lines)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    said = report(folder).said
    for expected in (
        "running",
        "30 of 100, in 15 s; about 35 s left",
        "0.125 0.5 at the start",
        "10 updates were skipped because gradients were not finite (steps 17;",
        "The loss was not finite in 1 records, first at step 20.",
        "MFU 38%, waits for input 12% of the time",
        "Started 2026-01-02 03:04 UTC on 8 x gpu (NVIDIA H100 80GB HBM3), 2 processes. No end is noted.",
    ):
        assert expected in said


def test_a_run_that_has_just_begun_is_shown_too(tmp_path):
    folder = write_run(tmp_path / "a", losses=())
    said = report(folder).said
    assert "Nothing has been logged yet." in said
    assert "None yet." in said


def test_curves_can_be_read(tmp_path):
    folder = write_run(tmp_path / "a", losses=(0.5, 0.25, 0.125))
    page = report(folder)
    curves = {text for place in page.attributes("data-readings") for _, text in json.loads(place)}
    assert {"0.5 at step 10", "0.25 at step 20", "0.125 at step 30", "64 at step 20"} <= curves
    assert "pixel_encoder 5.0e-05" in " ".join(curves)
    assert "64 at step 10" not in curves, "the step that compiled says nothing of the speed"


def test_results_with_several_numbers_of_clips_have_curves(tmp_path):
    folder = write_run(tmp_path / "a")
    metrics = {str(count): {"text_to_video/r1": 10.0 * count} for count in (1, 2, 8)}
    write(folder / "results.json", {"metrics": metrics, "run": {}})
    assert "By number of clips, text to video 80 at 8 clips" in report(folder).said


def test_settings_that_are_not_the_experiment_s_are_marked(tmp_path):
    page = report(write_run(tmp_path / "a", train__seed=7))
    assert "seed 7 instead of 0" in page.said
    assert page.said.count("instead of") == 2  # num_steps too
    assert "initializer_range 0.2" in page.said


@pytest.mark.parametrize(
    "task",
    [
        "retrieval",
        *(
            pytest.param(task, marks=pytest.mark.slow)
            for task in ("multiple_choice", "open_ended_qa", "count", "image_qa", "pretraining")
        ),
    ],
)
def test_a_run_of_each_task_is_reported_with_samples_and_frames(task, run_of, tmp_path, capsys):
    run = run_of(task)
    num_clips = 1 if task in OF_IMAGES else 2
    main(["evaluate", str(run), "--num-clips", str(num_clips)])
    main(["report", str(run), "--out", str(tmp_path / "new" / "page.html")])
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'new' / 'page.html'}\n")
    page = Page((tmp_path / "new" / "page.html").read_text())
    samples = read_samples(run, num_each=3)
    lines = read_json_lines(run / f"predictions-test-{num_clips}-clips.jsonl")
    asked = [
        line for line in lines if line.get("hidden") != []
    ]  # in pretraining not all captions hide a word
    assert samples.num_right + samples.num_wrong == len(asked)
    shown = [*samples.right, *samples.wrong]
    assert 0 < len(shown) <= 6
    for sample in shown:
        assert sample.text in page.said
        assert sample.outcome in page.said
        assert {len(card.clips) for card in sample.cards} == {num_clips}
    videos = sum(len(sample.cards) for sample in shown)
    assert len(page.attributes("src")) == videos * num_clips, "a frame of each clip"
    for expected in ("newest, best", task, "results.json", "jax 0."):
        assert expected in page.said


def test_samples_say_what_is_right(tmp_path):
    line = {
        "rank": 2,
        "text": "a ball",
        "video_id": "own",
        "videos": [
            {"video_id": "other", "match_logit": 0.0, "clip_match_logits": [0.0, 800.0]},
            {"video_id": "own", "match_logit": -1.0, "clip_match_logits": [-800.0, 0.0]},
        ],
    }
    sample = sample_of(line)
    assert not sample.is_right
    assert [card.is_right for card in sample.cards] == [False, True]
    assert [clip.share for clip in sample.cards[0].clips] == [0.5, 1.0]
    choice = {
        "question": "?",
        "video_id": "a",
        "options": ["sun", "moon"],
        "answer_index": 1,
        "predicted_index": 0,
        "is_right": False,
        "logits": [2.0, 0.0],
        "clip_logits": [[2.0, 0.0], [0.0, 2.0]],
    }
    sample = sample_of(choice)
    assert sample.outcome == "answered sun; right is moon"
    assert sample.cards[0].choices[0].share == pytest.approx(0.8808, abs=1e-4)
    assert [clip.says for clip in sample.cards[0].clips] == ["sun", "moon"]
    assert sample_of({"something": "else"}) is None
    assert sample_of({"rank": 1}) is None


def test_samples_are_of_the_file_with_the_most_clips_and_drawn_from_all_of_it(tmp_path):
    def counted(right, number):
        line = {"question": str(number), "video_id": "a", "count": 1, "predicted": 1 if right else 2}
        return {**line, "predicted_unrounded": 1.25, "clip_counts": [0.5, 2.0]}

    for clips in (2, 8, 64):
        lines = [counted(number % 4 == 0, number) for number in range(1000)]
        write_lines(tmp_path / f"predictions-test-{clips}-clips.jsonl", lines)
    samples = read_samples(tmp_path, num_each=20)
    assert (samples.split, samples.num_clips) == ("test", 8)
    assert (samples.num_right, samples.num_wrong) == (250, 750)
    for kept in (samples.right, samples.wrong):
        places = [int(sample.text) for sample in kept]
        assert len(set(places)) == 20
        assert min(places) < 300 < 700 < max(places)
    assert samples == read_samples(tmp_path, num_each=20)


def test_what_is_no_run_or_no_file_is_refused(tmp_path, capsys):
    assert "holds no run" in fails(["report", tmp_path], capsys)
    folder = write_run(tmp_path / "a")
    assert "--out" in fails(["report", folder, "--out", tmp_path], capsys)
    (tmp_path / "file").touch()
    said = fails(["report", folder, "--out", tmp_path / "file" / "page.html"], capsys)
    assert f"the folder of the page, {tmp_path / 'file'} is a file: give the name of a directory" in said
    fails(["report", tmp_path / "none"], capsys)
    assert not (tmp_path / "none").exists()
