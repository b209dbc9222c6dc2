"""`clipbert search`: what it prints, the page it writes, and that an answer that is known starts no JAX."""

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clipbert_jax.errors import UserError
from experiments.cli import main
from experiments.search.index import Index
from experiments.search.lines import index_lines, table
from experiments.search.model import SearchModel
from experiments.search.page import write_search_page
from experiments.search.ranking import rank
from tests.experiments.conftest import fails
from tests.experiments.untrained import untrained_run

from .conftest import OPTIONS, SCRIPT, SPACES

ROOT = Path(__file__).parents[3]


class Page(html.parser.HTMLParser):
    """What a browser makes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_any_file_name_is_shown_and_is_only_text(nasty, search, model, tmp_path):
    index = search(dataclasses.replace(OPTIONS, place=tmp_path / "red\x1b[31m"))
    ranked = rank(index, model, [f"a ball {SCRIPT}"])
    lines = "\n".join([*index_lines(index), *table(ranked)])
    assert "\x1b" not in lines
    assert r"red\x1b[31m/" in lines
    for shown in (SCRIPT, r"new\nline \x1b[31mred.mp4", r"latin-\udcfc.mp4", SPACES):
        assert sum(line.endswith(f"  {shown}") for line in lines.split("\n")) == 1
    assert f"  bad {SCRIPT}: " in lines
    write_search_page(tmp_path / "page.html", index, ranked, cost="nothing")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(SCRIPT) == 4  # the text and a note on it, the hit, the file that cannot be read
    assert r"latin-\udcfc.mp4" in page.text
    assert "1 file; tried again when they change or with --retry" in page.text


def test_the_page_needs_nothing_from_outside(search, model, tmp_path):
    index = search()
    write_search_page(tmp_path / "page.html", index, rank(index, model, ["a ball"]), cost="little")
    page = Page((tmp_path / "page.html").read_text())
    (policy,) = [attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3 * 3
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert all(image["alt"].startswith("Frame at 0:0") for image in images)
    assert sum(image["alt"].endswith("its best moment") for image in images) == 3
    assert not [name for _, attributes in page.tags for name in attributes if name in ("href", "onload")]
    assert "little" in page.text


@pytest.fixture
def command(run_dir, folder, tmp_path):
    """Arguments of a search by a trained run, whose page goes to the test's folder."""
    return ["search", run_dir, folder, "--num-clips", "2", "--num-workers", "0", "--out", tmp_path / "a.html"]


def run_command(command, *more):
    main([str(argument) for argument in (*command[:3], *more, *command[3:])])


def test_the_command_finds_and_says_what_it_cost(command, capsys, tmp_path, folder):
    (folder / "broken.mp4").write_bytes(b"no video")
    run_command(command, "a ball", "a star", "--top", "2")
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0] == "a ball"
    assert lines[3] == "a star"
    assert [line.split()[0] for line in lines[1:3]] == ["1", "2"]
    assert re.fullmatch(
        r"3 videos x 2 text\(s\) x 2 clips: 12 pairs of a clip and text scored in [\d.]+ s with compilation; "
        r"index [\d.]+ s; loading [\d.]+ s",
        lines[-1],
    )
    assert "index: 3 videos, 3 encoded" in said.err
    assert "  broken.mp4: " in said.err
    assert (tmp_path / "a.html").is_file()
    run_command(command, "a ball", "--json")
    said = json.loads(capsys.readouterr().out)
    assert said["cost"]["num_scored"] == 0
    assert not said["cost"]["is_with_compilation"]
    assert said["num_videos"] == 3
    assert [broken["video"] for broken in said["unreadable"]] == ["broken.mp4"]
    (text,) = said["texts"]
    assert [video["rank"] for video in text["videos"]] == [1, 2, 3]
    for video in text["videos"]:
        assert video["best_clip_seconds"] == video["clip_seconds"][video["best_clip"]]
        assert max(video["clip_probabilities"]) == video["clip_probabilities"][video["best_clip"]]


def test_a_known_answer_starts_no_jax_until_the_run_changes(command, run_dir, folder, tmp_path, capsys):
    run = shutil.copytree(run_dir, tmp_path / "run")
    command[1] = run
    run_command(command, "a ball", "--json")
    expected = json.loads(capsys.readouterr().out)["texts"]
    program = (
        "import sys; from experiments.cli import main; main(sys.argv[1:]); assert 'jax' not in sys.modules"
    )
    again = [*command[:3], "a ball", *command[3:], "--json", "--out", tmp_path / "b.html"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, again)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["texts"] == expected
    assert (tmp_path / "b.html").is_file()
    shutil.rmtree(run / "checkpoints")
    assert "holds no checkpoints" in fails([*command[:3], "a ball", *command[3:]], capsys)


def test_mistakes_are_said_in_a_sentence(command, folder, tmp_path, capsys):
    def said(*arguments):
        return fails([*arguments, *command[3:]], capsys)

    run = command[1]
    assert "does not exist: give the folder" in said("search", run, tmp_path / "nowhere", "a ball")
    assert "is a file: give the folder" in said("search", run, folder / "a.mp4", "a ball")
    assert "must not be empty" in said("search", run, folder, " ")
    assert r"the text caf\udce9 is not UTF-8" in said("search", run, folder, "caf\udce9")
    assert "give one or more texts that are not empty" in said("search", run, folder, "\u200b")
    assert "--top must be" in said("search", run, folder, "a ball", "--top", "0")
    assert "must end in .html" in fails([*command[:3], "a ball", "--out", tmp_path / "page.txt"], capsys)


def test_a_place_that_cannot_be_written_to_is_said(search, folder, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "index"):
        with pytest.raises(UserError, match="--index"):
            search(dataclasses.replace(OPTIONS, place=place))


def test_a_model_that_answers_questions_does_not_search(folder, data_dir):
    model = SearchModel.of(untrained_run("open_ended_qa", data_dir))
    with pytest.raises(UserError, match="is a model of open_ended_qa"):
        Index.open_or_update(model, folder)
