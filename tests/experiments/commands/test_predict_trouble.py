"""`clipbert predict` where something is wrong with texts, names of files, or the disk."""

import errno
import json
import os
from pathlib import Path

import pytest

from clipbert_jax.errors import UserError
from experiments.cli import main
from tests.experiments.commands.predicting import predict, use_untrained, video_file, write_video  # noqa: F401, fixtures
from tests.experiments.conftest import fails


@pytest.fixture
def written(monkeypatch):
    """Pages are not made, but written; return a function: from now on that fails, on a full disk."""
    monkeypatch.setattr("experiments.probe.probe_video.probe_facts", lambda run, num_clips: {})
    monkeypatch.setattr("experiments.probe.probe_video.make_page", lambda *_, **__: "page")
    monkeypatch.setattr("experiments.probe.probe_page.write_probe_page", Path.write_text)

    def fail():
        def full(path, page):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        monkeypatch.setattr("experiments.probe.probe_page.write_probe_page", full)

    return fail


def test_a_page_that_cannot_be_written_costs_no_answer(use, video, data_dir, written, tmp_path, capsys):
    use("retrieval")
    other = write_video(data_dir, "test_00001", tmp_path / "b.mp4")
    arguments = ["--texts", "a ball", "--explain", tmp_path / "p", "--json"]
    pages = predict(capsys, video, other, *arguments)
    written()
    for videos in ([video], [video, other]):
        with pytest.raises(SystemExit) as exit_:
            main(["predict", "untrained", *map(str, [*videos, *arguments])])
        assert exit_.value.code == 2
        said = capsys.readouterr()
        page = tmp_path / "p" / "1-1-a.html"
        assert said.err == (
            f"clipbert: --explain {page} cannot be written (No space left on device): make room, or choose "
            "another place\n"
        )
        found = json.loads(said.out)
        for answer, expected in zip(found.get("videos", [found]), pages["videos"], strict=False):
            (expected_text,) = expected["texts"]
            expected_text.pop("page", None)
            assert answer["texts"] == [expected_text]


def test_a_large_file_is_said_to_take_a_while(use, video, monkeypatch, capsys, tmp_path):
    use("retrieval")
    probe = [
        "probe",
        "untrained",
        str(video),
        "--text",
        "a ball",
        "--num-clips",
        "1",
        "--out",
        str(tmp_path / "a.html"),
    ]
    monkeypatch.setattr("experiments.commands.probe.Probe._page", lambda command, model, video: None)
    monkeypatch.setattr("experiments.commands.probe.Probe._write", lambda command, page: None)
    said = "a.mp4, 0 MB, is decoded from start to end first, which may take minutes"
    predict(capsys, video, "--texts", "a ball")  # its output is JSON alone
    main(probe)
    assert said not in capsys.readouterr().err
    monkeypatch.setattr("experiments.prediction.ask._LARGE_BYTES", 1)
    json.loads(main_output(capsys, ["predict", "untrained", str(video), "--texts", "a ball", "--json"], said))
    main_output(capsys, probe, said)


def main_output(capsys, arguments, said):
    main(arguments)
    printed = capsys.readouterr()
    assert printed.err.count(said) == 1
    return printed.out


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("\U0001f600" * 62, id="many bytes"),
        pytest.param("x" * 78 + "\U0001f600", id="cut inside a character"),
        pytest.param(os.fsdecode(b"caf\xe9"), id="not UTF-8"),
        pytest.param("a\n{}b", id="line feed"),
    ],
)
def test_pages_have_names_that_file_systems_take(name, use, data_dir, written, tmp_path, capsys):
    use("retrieval")
    file = write_video(data_dir, "test_00000", tmp_path / f"{name}.mp4")
    said = predict(capsys, file, "--texts", "a ball", "--explain", tmp_path / "p")
    (page,) = (tmp_path / "p").iterdir()
    assert said["texts"][0]["page"] == str(page)
    assert len(os.fsencode(page.name)) <= 90
    page.name.encode()


def test_texts_without_words_or_of_another_encoding_are_refused(use, video, capsys):
    asked = ["predict", "untrained", video, "--texts", "a ball"]
    for task in ("retrieval", "open_ended_qa"):
        use(task)
        for text in ("", "\u200b", "\ufffd\u00ad "):
            assert "one or more texts that are not empty" in fails([*asked, text], capsys)
        said = fails([*asked, "caf\udce9"], capsys)
        assert "the text caf\\udce9 is not UTF-8" in said
    use("multiple_choice")
    assert "--options that are not empty" in fails([*asked, "--options", "a", "\u200b"], capsys)
    assert "caf\\udce9 is not UTF-8" in fails([*asked, "--options", "a", "caf\udce9"], capsys)


def test_names_and_texts_do_not_steer_the_terminal(use, video, tmp_path, capsys):
    use("retrieval")
    steering = "\x1b]0;title\x07\u202e"
    said = fails(["predict", "untrained", tmp_path / steering, "--texts", "a ball"], capsys)
    assert r"\x1b]0;title\x07\u202e does not exist: give" in said
    assert not set(steering[:1] + steering[-2:]) & set(said)
    main(["predict", "untrained", str(video), "--texts", f"a {steering} giraffe \\ " * 20])
    said = capsys.readouterr()
    assert r"of: a \x1b]0;title\x07\u202e giraffe \\ a" in said.err
    assert not set(steering[:1] + steering[-2:]) & set(said.err + said.out)


def test_a_backslash_is_not_doubled_and_notes_keep_their_lines(monkeypatch, capsys):
    def failing(self):
        error = UserError(r"the file a\nb is bad")
        error.add_note("In a worker:\n  a line\x1b")
        raise error

    monkeypatch.setattr("experiments.commands.predict.Predict.run", failing)
    said = fails(["predict", "untrained", "a.mp4", "--texts", "a"], capsys)
    assert said == "clipbert: the file a\\nb is bad\nIn a worker:\n  a line\\x1b\n"


def test_too_little_memory_is_said_with_what_this_command_can_do(use, video, monkeypatch, capsys):
    use("retrieval")

    def read_frames(*_):
        raise MemoryError

    monkeypatch.setattr("data_pipelines.clips.read_frames", read_frames)
    said = fails(["predict", "untrained", video, "--texts", "a ball"], capsys)
    assert "a.mp4 (60x80) does not fit into memory" in said


def test_a_file_too_large_for_the_memory_costs_no_other_answer(
    use, video, data_dir, tmp_path, monkeypatch, capsys
):
    from data_pipelines.decoding.examine import examine_video

    use("retrieval")
    large = write_video(data_dir, "test_00001", tmp_path / "large.mp4")

    def probe_in_little_memory(path):
        if path == large:
            raise MemoryError
        return examine_video(path)

    monkeypatch.setattr("experiments.prediction.ask.examine_video", probe_in_little_memory)
    problem = f"{large} does not fit into memory: make it smaller"
    assert problem in fails(["predict", "untrained", large, "--texts", "a ball"], capsys)
    assert problem in fails(
        ["probe", "untrained", large, "--text", "a ball", "--out", tmp_path / "a.html"], capsys
    )
    with pytest.raises(SystemExit):
        main(["predict", "untrained", str(large), str(video), "--texts", "a ball", "--json"])
    broken, answered = json.loads(capsys.readouterr().out)["videos"]
    assert broken["error"] == problem
    assert answered["texts"][0]["text"] == "a ball"
