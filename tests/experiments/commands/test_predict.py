"""`clipbert predict`: every task answers as its evaluator does, of one or several videos."""

import json

import numpy as np
import pytest

from experiments.cli import main
from experiments.evaluators.make_evaluator import make_evaluator
from experiments.evaluators.score_split import score_split
from experiments.prediction.lines import lines
from tests.experiments.commands.predicting import predict, use_untrained, video_file, write_video  # noqa: F401, fixtures
from tests.experiments.conftest import fails


def check_open_ended_qa(entry, expected):
    best = expected["predicted"]
    assert [found["answer"] for found in entry["answers"]] == [found["answer"] for found in best]
    assert entry["answer"] == best[0]["answer"]
    near([found["probability"] for found in entry["answers"]], [found["probability"] for found in best])
    assert [clip["answer"] for clip in entry["clips"]] == [clip["answer"] for clip in expected["clips"]]
    of_answer = [clip["probability_of_prediction"] for clip in expected["clips"]]
    near([clip["probability_of_answer"] for clip in entry["clips"]], of_answer)
    assert entry["best_clip"] == int(np.argmax(of_answer))


def check_count(entry, expected):
    assert entry["count"] == expected["predicted"]
    near(entry["count_unrounded"], expected["predicted_unrounded"])
    near(entry["clip_counts"], expected["clip_counts"])


def check_multiple_choice(entry, expected):
    assert entry["choice_index"] == expected["predicted_index"]
    assert entry["choice"] == expected["options"][expected["predicted_index"]]
    logits = np.array([expected["logits"], *np.transpose(expected["clip_logits"])])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    near([option["probability"] for option in entry["options"]], shares[0])
    near([option["clip_probabilities"] for option in entry["options"]], shares[1:].T)
    assert entry["best_clip"] == int(shares[1:, entry["choice_index"]].argmax())


def near(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5)


CHECKS = {
    "open_ended_qa": check_open_ended_qa,
    "image_qa": check_open_ended_qa,
    "count": check_count,
    "multiple_choice": check_multiple_choice,
}


@pytest.mark.parametrize("task", CHECKS)
def test_answers_are_those_of_the_evaluation(task, use, tmp_path, capsys):
    run = use(task)
    data = run.experiment.data
    evaluator = make_evaluator(task, run.experiment.task, data.data_dir, "test", run.text_options)
    reduced = score_split(
        evaluator, run.scorer, data, what="", num_clips=[3], batch_size=8, texts_per_call=64
    )[3]
    expected = next(iter(evaluator.predictions(reduced)))
    file = write_video(data.data_dir, expected["video_id"], tmp_path / "video")
    options = ["--options", *expected["options"]] if "options" in expected else []
    said = predict(capsys, file, "--num-clips", 3, "--texts", expected["question"], *options)
    (entry,) = said["texts"]
    assert entry["text"] == expected["question"]
    assert entry["best_clip_seconds"] == said["clip_seconds"][entry["best_clip"]]
    assert {"run": "untrained", "task": task, "num_clips": 3, "consensus": "mean", "step": 0}.items() <= (
        said.items()
    )
    CHECKS[task](entry, expected)
    assert len(entry["change_without"]) == 3
    main(["predict", "untrained", str(file), "--num-clips", "3", "--texts", expected["question"], *options])
    printed = capsys.readouterr().out
    assert expected["question"] in printed
    assert f"clip {entry['best_clip'] + 1} at " in printed
    assert "clips alone: " in printed


SPANS = ((0.0, 0.5), (1.0, 1.5), (2.0, 2.0))
MATCHING = {"probability": 0.9, "clip_probabilities": (0.95, 0.2, 0.9)}
CHOICE = {
    "choice_index": 1,
    "options": [
        {"option": "a", "probability": 0.1, "clip_probabilities": (0.1, 0.8, 0.1)},
        {"option": "b", "probability": 0.9, "clip_probabilities": (0.9, 0.2, 0.9)},
    ],
}
ANSWER = {
    "probability": 0.9,
    "answers": [{"answer": "a", "probability": 0.9}],
    "clips": [{"answer": "a", "probability": 0.9, "probability_of_answer": 0.9}] * 3,
}
COUNT = {"count": 3, "count_unrounded": 3.0, "clip_counts": (3.0, 2.0, 3.0)}


def clip_lines(said, change_without):
    entry = {
        "text": "x",
        "best_clip": 0,
        "best_clip_seconds": SPANS[0],
        "change_without": change_without,
        **said,
    }
    return "\n".join(lines({"video": "a.mp4", "clip_seconds": SPANS, "texts": [entry]}, "3 clips"))


@pytest.mark.parametrize(
    "said", [MATCHING, CHOICE, ANSWER, COUNT], ids=["matching", "choice", "answer", "count"]
)
def test_the_clip_that_the_answer_rests_on_is_named(said):
    is_count = said is COUNT
    after = "2.80" if is_count else "70.0%"
    assert f"; without clip 3 at 2.0 s it is {after})" in clip_lines(said, (0.05, 0.1, -0.2))
    against = "3.05" if is_count else "95.0%"
    assert f"; without clip 2 at 1.0-1.5 s it is {against})" in clip_lines(said, (0.01, 0.05, -0.02))
    for nothing in ((1e-5, 0.0, 0.0), ()):
        assert "without" not in clip_lines(said, nothing)


def test_of_several_videos_a_broken_one_is_named_and_the_others_answered(
    use, video, data_dir, tmp_path, capsys
):
    use("retrieval")
    broken = tmp_path / "bro\nken.mp4"
    broken.write_text("no video")
    paths = tmp_path / "paths.txt"
    other = write_video(data_dir, "test_00001", tmp_path / "b.mp4")
    paths.write_text(f"\n{other}\n{tmp_path / 'missing.mp4'}\n")
    arguments = ["predict", "untrained", str(video), str(broken), "--list", str(paths), "--texts", "a ball"]
    with pytest.raises(SystemExit) as exit_:
        main([*arguments, "--json"])
    assert exit_.value.code == 2
    said = capsys.readouterr()
    assert said.err.startswith("clipbert: 2 of 4 videos could not be read, first ")
    assert said.err.count("\n") == 1
    videos = json.loads(said.out)["videos"]
    assert [found["video"] for found in videos] == [
        str(path) for path in (video, broken, other, tmp_path / "missing.mp4")
    ]
    assert ["error" in found for found in videos] == [False, True, False, True]
    assert videos[3]["error"] == "does not exist"
    alone = predict(capsys, other, "--texts", "a ball")
    assert alone["texts"] == videos[2]["texts"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "bro\\nken.mp4: cannot be read: " in capsys.readouterr().out


def test_an_address_is_refused_before_anything_is_loaded(tmp_path, capsys):
    address = "https://example.org/a.mp4"
    (tmp_path / "list.txt").write_text(f"{address}\n")
    sentence = (
        f"clipbert: {address} is a web address: download the video first, and give the path of the file\n"
    )
    assert fails(["predict", "nowhere", address, "--texts", "a ball"], capsys) == sentence
    listed = ["--list", tmp_path / "list.txt"]
    assert fails(["predict", "nowhere", *listed, "--texts", "a ball"], capsys) == sentence
    assert "give the path of a video" in fails(["predict", "nowhere", "--texts", "a ball"], capsys)


def test_options_are_for_multiple_choice_alone(use, video, capsys):
    asked = ["predict", "untrained", video, "--texts", "a ball"]
    use("retrieval")
    said = fails([*asked, "--options", "a", "b"], capsys)
    assert said == (
        "clipbert: --options are for models of multiple_choice, and untrained is one of retrieval: leave "
        "them out\n"
    )
    use("multiple_choice")
    for options in ([], ["--options", "a"], ["--options", "a", " "]):
        assert "give two or more --options that are not empty" in fails([*asked, *options], capsys)


def test_explain_links_a_page_for_each_text(use, video, tmp_path, capsys):
    use("retrieval")
    said = predict(
        capsys, video, "--texts", "a drop", "a moon", "--num-clips", "2", "--explain", tmp_path / "p"
    )
    pages = [tmp_path / "p" / f"1-{number}-a.html" for number in (1, 2)]
    assert [entry["page"] for entry in said["texts"]] == list(map(str, pages))
    for entry, page in zip(said["texts"], pages, strict=True):
        assert entry["text"] in page.read_text()


def test_explain_needs_a_directory(video, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    text = fails(["predict", "run", video, "--texts", "a", "--explain", tmp_path / "file"], capsys)
    assert "is a file: give the name of a directory" in text
