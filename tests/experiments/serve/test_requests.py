"""What requests ask, and what answers say: no faults where the client is wrong, and no paths."""

from __future__ import annotations

import io
import threading

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.workers.isolation import Failure
from experiments.serve import decoding
from experiments.serve.forms import Form
from experiments.serve.jobs import Job
from experiments.serve.limits import MAX_UPLOADS
from experiments.serve.refusal import RequestRefused, as_sentence
from tests.experiments.untrained import untrained_run

from .serving import serving

UNSEEN = "\u200b"


@pytest.mark.parametrize("text", ["00000000140", "1000000000", "0", "-1", "1.5", "٣", "9" * 500])
def test_numbers_out_of_range_are_refused(text):
    with pytest.raises(RequestRefused) as refused:
        Form(top=text).number("top", 10, 50)
    assert refused.value.status == 422


def test_numbers_in_range_are_taken():
    assert [Form(top=text).number("top", 10, 50) for text in ("", "1", "050", "50")] == [10, 1, 50, 50]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{", 400),
        ("application/json", b"[" * 100_000, 400),
        ("text/plain", b"texts=a", 415),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Dispo", 422),
        ("multipart/form-data; boundary=x", b"nothing of the kind", 400),
        ("multipart/form-data", b"--x", 400),
        ("application/x-www-form-urlencoded", b"&".join([b"texts=a"] * 99), 400),
    ],
)
def test_bodies_that_are_none(served, kind, body, status):
    assert served.ask("POST", "/api/ask", body, {"Content-Type": kind}).status == status


@pytest.mark.parametrize("name", ["video", "answer", "top", "num_clips"])
@pytest.mark.parametrize("values", [[], ["1", "2"]])
def test_single_values_are_single(served, name, values):
    said = served.post_json("/api/ask", {"texts": ["a"], name: values})
    assert (said.status, repr(name) in said.json["error"]) == (422, True)


@pytest.mark.parametrize("address", ["/api/ask", "/api/search"])
@pytest.mark.parametrize("texts", [[UNSEEN], ["a moon", f" {UNSEEN} "], ["\x01"]])
def test_texts_without_words_are_refused(served, address, texts):
    asked = {"video": served.video_id("a.mp4")} if address == "/api/ask" else {}
    said = served.post_json(address, asked | {"texts": texts})
    assert (said.status, said.json) == (
        422,
        {"error": "A text is empty: the model reads no word in it."},
    )
    assert served.site.workroom.num_under_way == 0


def test_options_without_words_are_refused(data_dir, folder):
    with serving(untrained_run("multiple_choice", data_dir, scale=0.3), folder) as served:
        asked = {"video": served.video_id("a.mp4"), "texts": ["what is it?"], "options": ["a", UNSEEN]}
        assert served.post_json("/api/ask", asked).status == 422


def test_a_video_that_is_gone_is_not_there(served, folder, video):
    gone = folder / "gone.mp4"
    gone.write_bytes(video)
    served.site.library.refresh(max_age=0.0)
    video_id = served.video_id("gone.mp4")
    gone.unlink()
    assert served.post_json("/api/ask", {"video": video_id, "texts": ["a"]}).status == 404
    assert served.get(f"/frames/{video_id}.jpg").status == 404
    gone.symlink_to(gone)
    assert served.post_json("/api/ask", {"video": video_id, "texts": ["a"]}).status == 404
    gone.unlink()


def test_an_upload_stays_while_its_question_waits(served, video):
    release, room = threading.Event(), served.site.workroom
    room.enqueue(room.admit(Job("ask", lambda job: release.wait(60))))
    try:
        sent = served.post_form("/ask", {"texts": "a"}, file=("waits.mp4", video + b"\0waits")).json
        waiting = room.find(sent["location"].split("/")[-1].removesuffix("#result"))
        (upload,) = [one for one in served.site.uploads.newest_first if one.name == "waits.mp4"]
        for number in range(MAX_UPLOADS + 1):
            served.site.uploads.keep(f"other{number}.mp4", io.BytesIO(video + b"\0" * (number + 50)))
        assert upload.path.exists()
        assert len(served.site.uploads.newest_first) == MAX_UPLOADS
    finally:
        release.set()
    assert waiting.ended.wait(60)
    assert waiting.problem is None


@pytest.mark.parametrize("address", ["/ask", "/probe"])
def test_an_upload_that_cannot_be_read_does_not_stay(served, video, address):
    room, name = served.site.workroom, f"cut{address[1:]}.mp4"
    sent = served.post_form(address, {"texts": "a"}, file=(name, video[:3000] + address.encode())).json
    place = sent["location"].removesuffix("#result")
    job = room.find(place.split("/")[-1])
    assert job.ended.wait(60)
    assert f"{name} cannot be read: " in job.problem.sentence
    assert name not in {one.name for one in served.site.uploads.newest_first}
    assert not job.asked[1].path.exists()
    page = served.get(place).text
    assert f"{name} cannot be read: " in page
    assert job.video_id not in page
    assert "Choose a video" in page


def test_an_upload_that_could_not_be_read_this_time_stays(served, video, monkeypatch):
    late = Failure("took longer than 60 s", may_pass=True)
    monkeypatch.setattr(decoding.Isolated, "map", lambda *given, **options: iter([late]))
    assert served.post_form("/api/ask", {"texts": "a"}, file=("late.mp4", video + b"late")).status == 422
    (upload,) = [one for one in served.site.uploads.newest_first if one.name == "late.mp4"]
    served.site.uploads.drop(upload)


# ---- What is said -----------------------------------------------------------------------------------------


def test_errors_of_commands_become_sentences():
    said = as_sentence(UserError("--answer 'x' is not one of the model's 5 answers: a, b"))
    assert said == "Answer 'x' is not one of the model's 5 answers: a, b."


def test_files_that_cannot_be_searched_are_named_with_reasons(served, folder):
    (folder / "dangling.mp4").symlink_to(folder.parent / "nowhere.mp4")
    served.site.library.refresh(max_age=0.0)
    try:
        found = served.post_json("/api/search", {"texts": ["a moon"]}).json
        assert {one["video"] for one in found["unreadable"]} == {"broken.mp4", "dangling.mp4"}
        assert "dangling.mp4" in served.get("/").text
    finally:
        (folder / "dangling.mp4").unlink()
