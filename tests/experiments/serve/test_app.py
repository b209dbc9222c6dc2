"""`clipbert serve` over HTTP: its numbers are those of the commands; wrong questions get a sentence."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from data_pipelines.decoding.examine import examine_video
from experiments.cli import main
from experiments.prediction.ask import ask_video
from experiments.serve import decoding
from experiments.serve.jobs import Job
from experiments.serve.limits import MAX_CHARACTERS, MAX_TEXTS, MAX_UPLOADS, MAX_WAITING
from tests.experiments.conftest import fails
from tests.experiments.untrained import untrained_run

from .conftest import NASTY
from .serving import crash, serving

TEXTS = ["a drop and a moon", "a leaf"]


def near(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5)


# ---- Numbers ----------------------------------------------------------------------------------------------


def test_answers_are_those_of_predict(served, folder):
    said = served.post_json("/api/ask", {"video": served.video_id("a.mp4"), "texts": TEXTS})
    assert said.status == 200
    expected = ask_video(served.site.run, examine_video(folder / "a.mp4"), TEXTS, num_clips=2)
    near(said.json["clip_seconds"], expected.clip_seconds)
    assert [entry["text"] for entry in said.json["texts"]] == [entry["text"] for entry in expected.texts]
    for entry, wanted in zip(said.json["texts"], expected.texts, strict=True):
        assert entry.keys() == wanted.keys()
        near(entry["probability"], wanted["probability"])
        near(entry["clip_probabilities"], wanted["clip_probabilities"])
    assert said.json["video"] == "a.mp4"
    assert {"run": "untrained", "step": 0, "task": "retrieval", "num_clips": 2}.items() <= said.json.items()


def test_an_uploaded_video_is_the_same_as_one_of_the_folder(served, folder):
    file = "a.mp4", (folder / "a.mp4").read_bytes()
    sent = served.post_form("/api/ask", {"texts": "\r\n".join(TEXTS)}, file=file).json
    by_id = served.post_json("/api/ask", {"video": served.video_id("a.mp4"), "texts": TEXTS}).json
    assert sent["texts"] == by_id["texts"]
    again = served.post_json("/api/ask", {"video": sent["video_id"], "texts": TEXTS}).json
    assert again["texts"] == sent["texts"]


def test_a_search_finds_what_asking_says(served):
    found = served.post_json("/api/search", {"texts": TEXTS, "top": 2}).json
    assert [text["text"] for text in found["texts"]] == TEXTS
    for text in found["texts"]:
        assert [video["rank"] for video in text["videos"]] == [1, 2]
        for video in text["videos"]:
            asked = {"video": video["video_id"], "texts": [text["text"]]}
            (entry,) = served.post_json("/api/ask", asked).json["texts"]
            assert entry["probability"] == pytest.approx(video["probability"], abs=2e-3)  # tokens: float16
    assert [video["video"] for video in found["unreadable"]] == ["broken.mp4"]
    assert "folder" not in found


@pytest.mark.parametrize("task", ["multiple_choice", "open_ended_qa"])
def test_models_of_questions(task, data_dir, folder):
    run = untrained_run(task, data_dir, scale=0.3)
    options = ["drop", "moon"] if task == "multiple_choice" else []
    question = "which object appears?"
    with serving(run, folder) as served:
        assert served.get("/").headers["location"] == "/ask"
        refused = served.post_json("/api/search", {"texts": ["a"]})
        assert (refused.status, refused.json) == (
            404,
            {"error": f"This server does not search: its model was trained for {task}."},
        )
        asked = {"video": served.video_id("a.mp4"), "texts": [question], "options": options}
        said = served.post_json("/api/ask", asked).json
        (expected,) = ask_video(run, examine_video(folder / "a.mp4"), [question], options, num_clips=2).texts
        (entry,) = said["texts"]
        assert entry == json.loads(json.dumps(expected))
        page = served.post_form("/ask", asked | {"texts": question, "options": "\n".join(options)}).json
        text = served.result(page["location"]).text
        choices = [option["option"] for option in entry.get("options", ())] or [
            answer["answer"] for answer in entry["answers"]
        ]
        assert text.count(", its best moment") == 1
        assert [text.find(f"<bdi>{choice}</bdi>") > 0 for choice in choices] == [True] * len(choices)
        if options:
            wrong = served.post_json("/api/ask", asked | {"options": ["drop"]})
            assert (wrong.status, wrong.json["error"][:44]) == (
                422,
                "This is a model of multiple_choice: give at ",
            )


def test_a_probe_is_a_page_of_its_own(served, folder):
    fields = {"video": served.video_id("a.mp4"), "texts": "a drop", "num_clips": "2"}
    address = served.post_form("/probe", fields).json["location"]
    around = served.result(address)
    assert f'<iframe src="{address}/page" sandbox="allow-scripts"' in around.text
    page = served.get(f"{address}/page")
    policy = page.headers["content-security-policy"]
    assert page.text.count("<script>") == 1
    assert "sandbox allow-scripts" in policy
    assert policy.split("script-src ")[1].split(";")[0] in page.text  # the hash that the page itself allows
    assert str(folder.parent) not in page.text
    assert str(served.site.private) not in page.text


# ---- What is said of it -----------------------------------------------------------------------------------


def test_a_video_that_is_broken_gets_a_sentence(served, video):
    said = served.post_json("/api/ask", {"video": served.video_id("broken.mp4"), "texts": TEXTS})
    assert said.status == 422
    assert said.json["error"].startswith("broken.mp4 cannot be read: ")
    sent = served.post_form("/ask", {"texts": "a drop"}, file=("cut.mp4", video[:3000]))
    page = served.result(sent.json["location"])
    assert page.status == 422
    assert "cut.mp4 cannot be read: " in page.text


def test_a_decoder_that_crashes_costs_one_answer(served, video, monkeypatch):
    monkeypatch.setattr(decoding, "read_clips", crash)
    other = video + b"\0"  # another file, which is not known yet
    said = served.post_form("/api/ask", {"texts": "a drop"}, file=("evil.mp4", other))
    assert (said.status, "the decoder crashed" in said.json["error"]) == (422, True)
    monkeypatch.undo()
    assert served.post_form("/api/ask", {"texts": "a drop"}, file=("evil.mp4", other)).status == 200


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"texts": TEXTS}, "Choose a video, or upload one."),
        ({"video": "a", "texts": []}, "Write a text that may describe the video."),
        ({"video": "a", "texts": ["a", " "]}, "A text is empty: the model reads no word in it."),
        (
            {"video": "a", "texts": ["a"], "options": ["b", "c"]},
            "This is a model of retrieval: only ",
        ),
        ({"video": "a", "texts": ["a" * (MAX_CHARACTERS + 1)]}, "A text has more than 1,000 characters"),
        ({"video": "a", "texts": ["a"] * (MAX_TEXTS + 1)}, "There are 17 texts: give 16 at most."),
        ({"video": "a", "texts": ["a\0b"]}, "A text holds characters that are not valid"),
        ({"video": "a", "texts": ["\ud800"]}, "A text holds characters that are not valid"),
        ({"video": "a", "texts": [{}]}, "'texts' must be a text, a number or a list"),
        ({"video": "a", "text": "a"}, "There is no field 'text', only "),
        ([], "The body must be a JSON object, such as "),
    ],
)
def test_questions_that_cannot_be_asked(served, asked, sentence):
    if isinstance(asked, dict) and "video" in asked:
        asked = asked | {"video": served.video_id("a.mp4")}
    said = served.post_json("/api/ask", asked)
    assert said.status in (400, 422)
    assert said.json["error"].startswith(sentence)


def test_names_and_texts_are_escaped(served):
    name = f"sub/{NASTY.replace('/', '_')}"
    text = '"><img src=x onerror=alert(1)>'
    location = served.post_form("/ask", {"video": served.video_id(name), "texts": text}).json["location"]
    pages = [served.result(location).text, served.get("/ask").text, served.get("/videos?name=script").text]
    location = served.post_form("/search", {"texts": text}).json["location"]
    pages.append(served.result(location).text)
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "&lt;script&gt;alert(1)" in page


def test_a_damaged_index_is_built_again(served):
    (first, *_) = served.post_json("/api/search", {"texts": TEXTS[:1]}).json["texts"][0]["videos"]
    for path in served.site.keeper.options.place.rglob("*.strip"):
        path.write_bytes(b"")
    said = served.post_json("/api/search", {"texts": TEXTS[:1]})
    assert (said.status, "search again later" in said.json["error"]) == (503, True)
    again = served.post_json("/api/search", {"texts": TEXTS[:1]})  # waits for the index
    assert again.json["texts"][0]["videos"][0] == first


def test_the_queue_is_short(served):
    release, room = threading.Event(), served.site.workroom
    jobs = [
        room.enqueue(room.admit(Job("ask", lambda job: release.wait(30)))) for _ in range(MAX_WAITING + 1)
    ]
    try:
        asked = {"video": served.video_id("a.mp4"), "texts": TEXTS}
        said = served.post_json("/api/ask", asked)
        assert (said.status, said.headers["retry-after"]) == (503, "5")
        assert said.json["error"] == "6 requests already wait for the model: try again in a moment."
        assert room.sentence(jobs[2]) == "Waiting behind 2 other requests."
        assert served.get(f"/jobs/{jobs[1].id}").json == {
            "is_ended": False,
            "sentence": "Waiting behind 1 other request.",
        }
        stopped = served.ask("POST", f"/jobs/{jobs[-1].id}/stop", b"", {"Accept": "application/json"})
        assert stopped.json == {"location": f"/ask/{jobs[-1].id}"}
        assert jobs[-1].problem.sentence == "This was stopped."
        assert served.get("/api/status").json["num_under_way"] == MAX_WAITING
    finally:
        release.set()
    for job in jobs[:-1]:
        assert job.ended.wait(30)


def test_few_uploads_are_kept(served, video):
    for number in range(MAX_UPLOADS + 2):
        # Refused after it came: it does not stay. Then some that do.
        served.post_form("/ask", {"texts": ""}, file=(f"refused{number}.mp4", video + b"x" * number))
        served.post_form("/api/ask", {"texts": "a"}, file=(f"{number}.mp4", video + b"\0" * (number + 2)))
    kept = served.site.uploads.newest_first
    assert [kept_one.name for kept_one in kept[:2]] == [f"{MAX_UPLOADS + 1}.mp4", f"{MAX_UPLOADS}.mp4"]
    assert len(kept) == MAX_UPLOADS
    files = {path for path in served.site.private.iterdir() if path.suffix != ".html"}
    assert files == {kept_one.path for kept_one in kept}
    assert served.site.private.stat().st_mode & 0o777 == 0o700


# ---- The command ------------------------------------------------------------------------------------------


def test_a_port_that_is_in_use_gets_a_sentence(served, capsys):
    said = fails(["serve", "nowhere", "--port", served.port], capsys)
    assert f"port {served.port} of 127.0.0.1 cannot be used (Address already in use)" in said


def test_without_the_extra_it_is_named(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    with pytest.raises(SystemExit):
        main(["serve", "nowhere"])
    said = capsys.readouterr().err
    sentence = "clipbert serve needs the package uvicorn: pip install -e '.[serve]' in the repository"
    assert said == f"clipbert: {sentence}\n"


def test_options_are_checked_before_anything_is_loaded(tmp_path, capsys):
    assert "--port must be" in fails(["serve", "x", "--port", "70000"], capsys)
    missing = tmp_path / "none"
    assert f"--videos {missing} does not exist" in fails(["serve", "x", "--videos", missing], capsys)
