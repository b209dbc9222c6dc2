"""`make picture`: searches the test videos of the demo and takes the README's picture of the result page.

Needs the run that `make demo` leaves, Playwright (in the extra `dev`) and a Chromium on the PATH.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import cv2

from clipbert_jax.errors import UserError
from data_pipelines.corpus.reader import open_corpus
from experiments.runs.load_run import load_run
from experiments.runtime.compilation_cache import use_compilation_cache
from experiments.search.index import Index
from experiments.search.model import SearchModel
from experiments.search.options import IndexOptions
from experiments.search.page import write_search_page
from experiments.search.ranking import rank

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TEXT = "a drop, a moon and a ball"
NUM_VIDEOS = 24
WIDTH = 1056
"""Width of the page, in pixels of CSS."""
SCALE = 1.25
"""Pixels of the picture for each pixel of CSS."""


def picture(run_dir: Path, path: Path) -> None:
    """Write the picture of a search by the demo's model.

    Raises:
      UserError: the demo has not run, or there is no browser.
    """
    run = load_run(run_dir)
    corpus = open_corpus(run.experiment.data.data_dir)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "videos"
        folder.mkdir()
        for number in range(NUM_VIDEOS):
            (folder / f"video-{number:02}.mp4").write_bytes(corpus.read(f"test_{number:05}").data)
        model = SearchModel.of(run)
        index = Index.open_or_update(model, folder, IndexOptions())
        page = Path(name) / "page.html"
        write_search_page(page, index, rank(index, model, [TEXT], top=4), cost="")
        _take_screenshot(page, path)


def _take_screenshot(page: Path, path: Path) -> None:
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise UserError(f"no browser on the PATH: install one of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": WIDTH, "height": 900}, device_scale_factor=SCALE)
        tab.goto(page.as_uri())
        path.parent.mkdir(parents=True, exist_ok=True)
        tab.locator(".query").screenshot(path=path)
        browser.close()
    pixels = cv2.imread(str(path))
    assert pixels is not None, "Chromium has just written it"
    cv2.imwrite(str(path), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    try:
        use_compilation_cache()
        picture(Path("runs/demo"), Path("docs/pictures/search.png"))
    except UserError as error:
        print(f"picture: {error}", file=sys.stderr)
        sys.exit(2)
