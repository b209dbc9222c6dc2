"""`clipbert serve` in a browser: a search, a question about an upload, a probe; on screens of two sizes."""

from __future__ import annotations

import io
import threading
import time

import pytest

from experiments.serve.ask_work import Answered
from experiments.serve.forms import Form
from experiments.serve.jobs import Job
from tests.browser import chromium, visit  # noqa: F401, the fixture
from tests.experiments.untrained import untrained_run

from .conftest import NASTY
from .serving import serving


# On small screens all has the least room.
@pytest.fixture(params=[pytest.param(1280, marks=pytest.mark.slow), 390])
def opened(chromium, served, request):  # noqa: F811
    """A window; nothing may go wrong in it, or be asked for elsewhere, until the test is over."""
    with visit(chromium, served.url, width=request.param, height=844) as visited:
        yield visited
        assert visited.problems == []
        assert all(url.startswith(served.url) for url in visited.requests)
        assert visited.overflow() <= 0


def has_room(visited):
    assert visited.overflow() <= 0
    outside = "all => all.filter(one => one.getBoundingClientRect().right > innerWidth + 1).length"
    assert visited.page.locator("main *:visible").evaluate_all(outside) == 0


def test_search_then_ask_then_probe(opened, served):
    page = opened.page
    page.fill("#texts", "a drop and a moon\na leaf")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".query >> nth=1")
    assert page.evaluate("document.activeElement.id") == "result"
    assert page.input_value("#texts") == "a drop and a moon\na leaf"
    assert page.locator(".query").first.locator(".found > li").count() == 3
    assert page.locator(".moments img").first.evaluate("one => one.naturalWidth") > 0
    page.click("summary")
    assert "a link to a file outside the folder" in page.inner_text(".bad")
    has_room(opened)

    page.click(".found >> text=Ask about it >> nth=0")
    page.wait_for_url("**/ask?**")
    assert page.input_value("#texts") == "a drop and a moon"
    page.click("form.ask button")
    page.wait_for_selector(".found.wide")
    has_room(opened)

    page.click("text=Probe this")
    page.wait_for_url("**/probe?**")
    page.select_option("#num_clips", "1")
    page.click("form.ask button")
    page.wait_for_selector("iframe", timeout=30_000)
    report = page.frame_locator("iframe")
    report.locator("html[data-ready]").wait_for()
    assert "a drop and a moon" in report.locator("h1").inner_text()
    report.locator('label:has(input[name="word"][value="2"])').click()
    assert report.locator("#pictures canvas").count() >= 1
    has_room(opened)


def test_ask_about_an_upload(opened, folder):
    page = opened.page
    page.click("nav >> text=Ask")
    page.wait_for_selector("form.ask")
    assert page.locator(".pick bdi").filter(has_text=NASTY.replace("/", "_")).count() == 1
    page.click("form.ask button")  # the browser itself wants a text
    page.fill("#texts", "a moon")
    page.click("form.ask button")
    page.wait_for_selector(".said.wrong")
    assert page.inner_text("form.ask .said") == "Choose a video, or upload one."
    opened.problems.clear()  # the status 422 of that
    page.set_input_files("#file", folder / "a.mp4")
    assert page.inner_text(".picker summary b") == "a.mp4"
    page.click("form.ask button")
    page.wait_for_selector(".found.wide")
    assert "that the text describes the video" in page.inner_text(".found")
    assert page.locator(".moments .best img").count() == 1
    has_room(opened)


def test_finding_by_name_loses_no_choice(opened, served, folder, video):
    from playwright.sync_api import expect  # which waits; late, as the fixture skips without Playwright

    others = [folder / f"other{number:02}.mp4" for number in range(12)]
    for other in others:
        other.write_bytes(video)
    served.site.library.refresh(max_age=0.0)
    try:
        page = opened.page
        served.site.uploads.keep("mine.mp4", io.BytesIO(video))
        page.goto(page.url + "ask")
        chosen = page.locator(f'.pick:has(input[value="{served.video_id("a.mp4")}"]:checked)')
        page.locator(f'.pick:has(input[value="{served.video_id("a.mp4")}"])').click()
        page.fill("#name", "other")
        # The twelve, the one that is chosen, and the uploads, those of other tests among them.
        uploads = [upload.name for upload in served.site.uploads.newest_first]
        expect(page.locator("#found")).to_have_text(f"{13 + len(uploads)} videos to choose from")
        num_others = 12 + sum("other" in name for name in uploads)
        expect(page.locator(".pick").filter(has_text="other")).to_have_count(num_others)
        num_mine = sum("mine.mp4" in name for name in uploads)
        expect(page.locator(".pick").filter(has_text="mine.mp4")).to_have_count(num_mine)
        expect(chosen).to_have_count(1)
        page.fill("#name", "nothing of the kind")
        page.wait_for_selector("text=No video in the folder has this in its name.")
        expect(chosen).to_have_count(1)
        expect(page.locator("[aria-live] .pick")).to_have_count(0)
        page.goto(served.url)
    finally:
        for other in others:
            other.unlink()
        served.site.library.refresh(max_age=0.0)


def test_progress_is_read_out_now_and_then(opened, served):
    page, room = opened.page, served.site.workroom
    release = threading.Event()

    def count(job):
        while not release.wait(0.1):
            job.line = f"{time.monotonic():.3f} times."
        return Answered(json={}, notes=[], cards=[])

    job = room.enqueue(room.admit(Job("ask", count, asked=(Form(texts=("a",)), None))))
    try:
        page.goto(f"{served.url}/ask/{job.id}")
        page.wait_for_selector("[data-job] [role=status]:not(:empty)")
        said, shown = (page.inner_text(f"[data-job] {one}") for one in ("[role=status]", ".line"))
        page.wait_for_selector(f"[data-job] .line:not(:text-is('{shown}'))")
        assert page.inner_text("[data-job] [role=status]") == said
    finally:
        release.set()
    page.wait_for_selector("[data-job]", state="detached")


def test_an_upload_alone_is_no_empty_folder(data_dir, video):
    with serving(untrained_run("retrieval", data_dir, scale=0.3), None) as served:
        served.post_form("/api/ask", {"texts": "a"}, file=("mine.mp4", video))
        page = served.get("/ask").text
    assert "mine.mp4" in page
    assert "No video in the folder" not in page


def test_a_file_that_is_too_large_is_not_sent(opened, tmp_path):
    page = opened.page
    page.goto(page.url + "ask")
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(300_000))
    page.set_input_files("#file", large)
    page.fill("#texts", "a moon")
    page.click("form.ask button")
    assert page.inner_text("form.ask .said") == "large.mp4 has 0.3 MB; the limit is 0.2 MB."
    has_room(opened)


def test_without_scripts_and_by_keyboard(chromium, served):  # noqa: F811
    with visit(chromium, f"{served.url}/ask", java_script_enabled=False) as visited:
        page = visited.page
        page.keyboard.press("Tab")
        assert page.locator(":focus").inner_text() == "Skip to the content"
        page.locator('input[name="video"]').first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowUp")
        chosen = page.locator(".pick:has(:checked)")
        name = chosen.locator("bdi").inner_text()
        page.fill("#texts", "a moon")
        page.locator("#texts").press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#result")
        page.wait_for_selector(".found.wide, .wrong", timeout=20_000)
        assert page.inner_text("summary b") == name


def test_every_control_has_a_name(opened):
    page = opened.page
    nameless = """all => all.filter(one => !one.labels?.length && !one.ariaLabel && !one.textContent.trim()
      && one.type !== "hidden").map(one => one.outerHTML)"""
    for address in ("", "ask", "probe"):
        page.goto(page.url.rsplit("/", 1)[0] + f"/{address}")
        assert page.locator("input, select, textarea, button, a, summary").evaluate_all(nameless) == []
        assert page.locator("h1").count() == 1
        assert page.locator("img:not([alt])").count() == 0
        assert page.locator("[role=alert]").count() >= 1
