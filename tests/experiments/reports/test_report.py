from __future__ import annotations

import html.parser
import pathlib

import numpy as np
import pytest

from experiments.demo.report import Query, write_report
from experiments.reports.cards import found_card
from experiments.reports.page import jpeg_data_uri

RECALLS = {
    "1": {"r1": 12.3, "r5": 23.4, "r10": 34.5, "median_rank": 21.5},
    "8": {"r1": 61.7, "r5": 91.8, "r10": 97.9, "median_rank": 1.0},
}
NASTY = "<script>alert('a red ring')</script> & \"more\""


@pytest.fixture(name="page")
def fixture_page(tmp_path: pathlib.Path) -> str:
    frames = [np.full((48, 64, 3), (200, 30, 30), np.uint8), np.zeros((640, 480, 3), np.uint8)]
    pictures = [jpeg_data_uri(frame) for frame in frames]
    query: Query = {
        "text": NASTY,
        "expected_video_id": NASTY,
        "ranking": [
            found_card(NASTY, 0.876, [0.25, 1.0], ["0:01", "0:02"]).with_pictures(pictures, most=4),
        ],
    }
    path = tmp_path / "new" / "report.html"
    write_report(
        path,
        title="A <b>title</b>",
        command="make demo",
        history=[
            {"step": 10, "loss": 0.7, "videos_per_second": 1.0, "input_wait_share": 1.0},
            {"step": 20, "loss": float("nan"), "videos_per_second": 80.0, "input_wait_share": 0.125},
            {"step": 30, "loss": 0.2, "videos_per_second": 80.0, "input_wait_share": 0.125},
        ],
        results={
            "text_to_video": RECALLS,
            "video_to_text": RECALLS,
            "run": {"config": {"train": {"batch_size": 4321}, "note": NASTY}},
        },
        queries=[query],
    )
    return path.read_text()


class _Tags(html.parser.HTMLParser):
    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_text_from_data_is_escaped(page: str):
    tags = _Tags(page).tags
    assert "script" not in {tag for tag, _ in tags}
    assert page.count("&lt;script&gt;") >= 4  # caption, expected video, ranked video, a factor
    assert "<b>title" not in page
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]


def test_page_needs_nothing_from_outside(page: str):
    sources = [
        value or ""
        for _, attributes in _Tags(page).tags
        for name, value in attributes.items()
        if name in {"src", "href", "srcset", "action", "data"}
    ]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert "url(" not in page
    assert "@import" not in page


def test_numbers_are_on_the_page(page: str):
    for row in RECALLS.values():
        for value in (row["r1"], row["r5"], row["r10"]):
            assert f"<td>{value:.1f}</td>" in page
    for text in (
        "21.5",
        "87.6 %",
        "80.0 videos/s",
        "12 % of its time",
        "train.batch_size",
        "4321",
        "height: 25.0%",
    ):
        assert text in page


def test_charts_skip_what_is_not_finite(page: str):
    assert "nan" not in page.split("<style>")[1].split("</style>")[1].split('class="query"')[0]
