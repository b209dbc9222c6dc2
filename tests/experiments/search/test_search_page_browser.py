"""The page of a search in a browser: on wide and narrow screens, whatever files and texts are called."""

import dataclasses

import pytest

from experiments.search.page import write_search_page
from experiments.search.ranking import rank
from tests.browser import chromium, visit  # noqa: F401, the fixture

from .conftest import SCRIPT

LONG = "long" * 50
TEXTS = ["</blockquote><img src=x onerror='alert(2)'>", f"{LONG} a ball", "עברית a star"]


@pytest.fixture
def page(nasty, search, model, tmp_path):
    """The page of a search for texts that browsers could take for something else."""
    (nasty / f"{LONG}.gif").write_bytes(b"no video")
    index = search()
    ranked = rank(index, model, TEXTS)
    hits = ranked.rankings[1].hits
    renamed = dataclasses.replace(hits[0], name=f"{LONG}/{LONG}.mp4")
    ranking = dataclasses.replace(ranked.rankings[1], hits=(renamed, *hits[1:]))
    ranked = dataclasses.replace(ranked, rankings=(ranked.rankings[0], ranking, ranked.rankings[2]))
    path = tmp_path / "page.html"
    write_search_page(path, index, ranked, cost="7 videos x 3 text(s)")
    return path


def test_the_page_fits_and_does_nothing(chromium, page):  # noqa: F811
    for width in (1280, 390):
        with visit(chromium, page.as_uri(), width=width) as visited:
            assert visited.overflow() <= 0
            assert visited.page.locator("blockquote").all_inner_texts() == TEXTS
            names = visited.page.locator("h3").all_inner_texts()
            assert len(names) == 3 * 7
            for name in (SCRIPT, r"new\nline \x1b[31mred.mp4", r"latin-\udcfc.mp4", f"{LONG}/{LONG}.mp4"):
                assert any(shown.endswith(f". {name}") for shown in names), name
            pictures = visited.page.locator(".moments img")
            assert pictures.evaluate_all("all => all.every(one => one.naturalWidth > 0)")
            boxes = [card.bounding_box() for card in visited.page.locator(".found > li").all()]
            assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
            assert len({box["x"] for box in boxes}) == (2 if width == 1280 else 1)
            assert visited.page.locator(".bad li").count() == 2
            assert visited.page.locator("img[src='x'], script").count() == 0
            assert visited.problems == []
            assert visited.requests == [page.as_uri()]
