"""Searches, questions and the index at the same time: nothing waits for ever, and nothing piles up."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from experiments.search.place import ReadOnlyIndexError
from experiments.serve import index_keeper, search_work
from experiments.serve.forms import Form
from experiments.serve.jobs import Job, Stopped, Workroom
from experiments.serve.limits import MAX_WAITING, MAX_WAITING_FOR_INDEX
from experiments.serve.refusal import RequestRefused


def started(served, text):
    return search_work.start_search(served.site, Form(texts=(text,)))


def ended(job):
    assert job.ended.wait(60), "it waits for ever"
    assert job.problem is None
    return job.result


def test_searches_end_while_a_file_changes(served, folder, video):
    """The index takes the model to encode the file while the model's thread begins the other search."""
    changing = folder / "changing.mp4"
    try:
        for number in range(3):
            searches = [started(served, f"a moon {number}")]
            changing.write_bytes(video + bytes(number + 1))
            searches += [started(served, f"a leaf {number}"), started(served, f"a drop {number}")]
            for search in searches:
                ended(search)
    finally:
        changing.unlink()


def test_a_new_file_is_found_at_once(served, folder, video):
    served.get("/api/videos")  # the folder was looked through just now
    new = folder / "new.mp4"
    new.write_bytes(video + b"new")
    try:
        found = ended(started(served, "a moon that is new")).json["texts"][0]["videos"]
        assert "new.mp4" in {one["video"] for one in found}
    finally:
        new.unlink()


def test_searches_that_wait_for_the_index_are_few_and_keep_no_question_waiting(served, monkeypatch):
    updating, release, updates, update = threading.Event(), threading.Event(), [], index_keeper.Index.update

    def slow(index, *arguments, **options):
        updates.append(1)
        updating.set()
        assert release.wait(60)
        update(index, *arguments, **options)

    monkeypatch.setattr(index_keeper.Index, "update", slow)
    first = started(served, "a moon")
    assert updating.wait(60)
    waiting = [started(served, "a moon") for _ in range(MAX_WAITING_FOR_INDEX)]
    assert served.post_json("/api/search", {"texts": ["a moon"]}).status == 503
    assert served.site.workroom.num_under_way == MAX_WAITING_FOR_INDEX + 1
    asked = {"video": served.video_id("a.mp4"), "texts": ["a moon"]}
    assert served.post_json("/api/ask", asked).status == 200
    served.site.workroom.stop(waiting[0])
    last = started(served, "a moon")  # in place of the one that was stopped
    release.set()
    for job in (first, *waiting[1:], last):
        ended(job)
    assert len(updates) == 2  # one for all that waited


def test_a_search_that_runs_can_be_stopped(served, monkeypatch):
    begun, stopped, rank = threading.Event(), threading.Event(), index_keeper.rank

    def slow(*arguments, **options):
        begun.set()
        assert stopped.wait(60)
        return rank(*arguments, **options)

    monkeypatch.setattr(index_keeper, "rank", slow)
    job = started(served, "something that was not asked before")
    assert begun.wait(60)
    served.site.workroom.stop(job)
    stopped.set()
    assert job.ended.wait(60)
    assert job.problem is not None
    assert job.problem.sentence == "This was stopped."


def test_work_ends_when_it_takes_too_long_or_nobody_wants_it():
    job = Job("ask", lambda job: None, seconds=1.0, began=time.monotonic() - 2)
    with pytest.raises(RequestRefused) as refused:
        job.check()
    assert refused.value.status == 422  # it would be the same again
    job.is_stopped = True
    with pytest.raises(Stopped):
        job.check()


def test_an_end_leaves_nobody_waiting():
    room, release = Workroom(), threading.Event()
    begun = threading.Event()
    running = room.enqueue(room.admit(Job("ask", lambda job: begun.set() or release.wait(10))))
    waiting = room.enqueue(room.admit(Job("ask", lambda job: None)))
    preparing = room.admit(Job("search", lambda job: None))
    assert begun.wait(10)
    closing = threading.Thread(target=room.close)
    closing.start()
    assert waiting.ended.wait(10)
    release.set()
    closing.join(10)
    late = room.enqueue(Job("ask", lambda job: None))
    assert all(job.ended.is_set() for job in (running, waiting, preparing, late))


def test_videos_of_jobs_that_have_not_ended_are_in_use():
    room, release = Workroom(), threading.Event()
    job = room.enqueue(room.admit(Job("ask", lambda job: release.wait(10), video_id="a")))
    assert room.videos_in_use == {"a"}
    release.set()
    assert job.ended.wait(10)
    assert room.videos_in_use == set()
    room.close()


def test_no_search_is_prepared_when_the_queue_is_full():
    room, release = Workroom(), threading.Event()
    for _ in range(MAX_WAITING + 1):
        room.enqueue(room.admit(Job("ask", lambda job: release.wait(10))))
    with pytest.raises(RequestRefused):
        room.admit(Job("search", lambda job: None))
    release.set()
    room.close()


def test_a_folder_that_cannot_be_written_to_names_the_option(served, monkeypatch, capsys):
    def refuse(index, *arguments, **options):
        error = PermissionError(errno.EACCES, "Permission denied")
        raise ReadOnlyIndexError(index.folder, index.place, error)

    with monkeypatch.context() as patched:
        patched.setattr(index_keeper.Index, "update", refuse)
        said = served.post_json("/api/search", {"texts": ["a"]})
    assert (said.status, "--index" in said.json["error"]) == (503, True)
    assert "--index" in capsys.readouterr().err
    assert served.post_json("/api/search", {"texts": ["a"]}).status == 200


def test_an_index_that_fails_says_so_and_is_tried_again(served, folder):
    hidden = folder.with_name("elsewhere")
    folder.rename(hidden)
    folder.mkdir()
    try:
        said = served.post_json("/api/search", {"texts": ["a"]})
        assert said.json["error"].startswith("The folder cannot be searched: No videos in ")
        assert served.get("/api/status").json["index"]["has_failed"]
        page = served.get("/").text
        assert "data-index" not in page
        assert "<progress" not in page
    finally:
        folder.rmdir()
        hidden.rename(folder)
    assert served.post_json("/api/search", {"texts": ["a"]}).status == 200
    assert not served.get("/api/status").json["index"]["has_failed"]
