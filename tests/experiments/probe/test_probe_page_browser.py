"""The page of a probe in a browser: every control, at the right place, on screens of all kinds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from experiments.probe.probe_page import write_probe_page
from tests.browser import chromium, visit  # noqa: F401, the fixture
from tests.experiments.probe.probe_pages import make_page

NASTY = "<script>alert(1)</script>.mp4"
SCREENS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]

HOT_BOX = """canvas => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
  copy.drawImage(canvas, 0, 0);
  const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
  let [left, upper, right, lower] = [canvas.width, canvas.height, 0, 0];
  for (let i = 0; i < canvas.width * canvas.height; i++) {
    if (data[4 * i + 3] < 150) continue;
    const [x, y] = [i % canvas.width, Math.floor(i / canvas.width)];
    [left, upper] = [Math.min(left, x), Math.min(upper, y)];
    [right, lower] = [Math.max(right, x + 1), Math.max(lower, y + 1)];
  }
  return [left / canvas.width, upper / canvas.height, right / canvas.width, lower / canvas.height];
}"""


@pytest.fixture
def opened(chromium, tmp_path):  # noqa: F811
    """Return a function that opens the page of a probe; nothing may go wrong until the test is over."""
    visits = []

    def open_(page, **options):
        path = tmp_path / "page.html"
        write_probe_page(path, page)
        manager = visit(chromium, path.as_uri(), **options)
        visited = manager.__enter__()
        visits.append((manager, visited, path))
        if options.get("java_script_enabled", True):
            visited.page.wait_for_selector("html[data-ready]")
        return visited

    yield open_
    try:
        for _, visited, path in visits:
            assert visited.problems == []
            assert visited.requests == [path.as_uri()]
            assert visited.overflow() <= 0
    finally:
        for manager, *_ in visits:
            manager.__exit__(None, None, None)


def text(visited, selector):
    return visited.page.locator(selector).inner_text()


def pick(visited, name, value):
    visited.page.locator(f'label:has(input[name="{name}"][value="{value}"])').click()


def slide(visited, name, value):
    visited.page.locator(f"#{name}").fill(str(value))


def pixels(visited, selector="#pictures canvas"):
    return visited.page.locator(selector).first.evaluate("canvas => canvas.toDataURL()")


def hot_page(frame_hw, row, column, grid=(6, 6), **options):
    """Return a probe whose every map has one hot cell."""
    page = make_page(frame_hw=frame_hw, grid=grid, num_clips=2, layers=1, heads=1, **options)
    maps = {}
    for name in ("text_to_grid", "grid_to_text", "gradient_weighted", "rollout", "cell_changes"):
        maps[name] = np.zeros_like(getattr(page, name))
        maps[name][..., row, column] = -0.5 if name == "cell_changes" else 0.5
    return dataclasses.replace(page, **maps)


@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_every_control_changes_the_picture(opened, width, scheme):
    page = make_page(faithfulness={"rollout": make_page().faithfulness["rollout"]})
    visited = opened(page, width=width, color_scheme=scheme)
    drawn = {pixels(visited)}

    def changes(act, *arguments):
        act(*arguments)
        drawn.add(pixels(visited))

    steps = [(pick, "clip", i) for i in range(4)] + [(pick, "word", i) for i in range(8)]
    steps += [(slide, "layer", 0), (slide, "head", 2), (slide, "opacity", 40)]
    for act, *arguments in steps:
        changes(act, visited, *arguments)
    assert len(drawn) >= len(steps) - 1  # two of them were picked already
    assert text(visited, 'output[for="layer"]') == "1 of 3"
    assert text(visited, 'output[for="head"]') == "2 of 4"
    for name in ("smooth", "shared"):
        before = pixels(visited)
        visited.page.locator(f"#{name}").click()
        assert pixels(visited) != before
    for kind in ("picture", "gradient", "rollout", "ablation"):
        before = pixels(visited)
        pick(visited, "kind", kind)
        assert pixels(visited) != before
        assert visited.page.locator("#head").is_disabled()
        assert visited.page.locator("#layer").is_disabled() == (kind in ("rollout", "ablation"))
        assert text(visited, "#head-reason") != ""
        assert visited.overflow() <= 0
    visited.page.locator("#before").click()
    visited.page.locator("summary").click()
    assert text(visited, "#clip-name").startswith("Clip 3")


def test_heads_that_were_never_seen_are_printed(opened):
    visited = opened(make_page(), height=300)
    drawn = """all => all.map(one => {
      const empty = Object.assign(document.createElement("canvas"), { width: one.width, height: one.height });
      return one.toDataURL() !== empty.toDataURL();
    })"""
    heads = visited.page.locator("#heads canvas")
    assert not any(heads.evaluate_all(drawn)), "they are below the window"
    visited.page.pdf()
    assert all(heads.evaluate_all(drawn))


@pytest.mark.parametrize(
    ("width", "frame_hw", "row", "column", "box"),
    [
        (1280, (120, 120), 2, 3, (3 / 6, 2 / 6, 4 / 6, 3 / 6)),
        (1280, (90, 120), 1, 5, (5 / 6, 1 / 4.5, 1, 2 / 4.5)),
        (390, (90, 120), 4, 0, (0, 4 / 4.5, 1 / 6, 1)),  # half of the cell is padding
        (1280, (120, 75), 5, 3, (3 / 3.75, 5 / 6, 1, 1)),
        (390, (120, 75), 0, 0, (0, 0, 1 / 3.75, 1 / 6)),
    ],
)
def test_a_hot_cell_lies_where_it_is_in_the_picture(opened, width, frame_hw, row, column, box):
    visited = opened(hot_page(frame_hw, row, column), width=width)
    canvas = visited.page.locator("#pictures canvas").first
    for kind in ("attention", "picture", "gradient", "rollout", "ablation"):
        pick(visited, "kind", kind)
        slide(visited, "opacity", 100)
        assert canvas.evaluate(HOT_BOX) == pytest.approx(box, abs=0.01), kind
    # What the canvas shows lies on the picture, which has its own shape.
    over, under = canvas.bounding_box(), visited.page.locator("#pictures img").first.bounding_box()
    assert over == pytest.approx(under, abs=1)
    assert over["width"] / over["height"] == pytest.approx(frame_hw[1] / frame_hw[0], rel=0.02)
    assert f"row {row + 1}, column {column + 1}: " in text(visited, "#reading")
    left, upper, right, lower = box
    place = {"x": (left + right) / 2 * over["width"], "y": (upper + lower) / 2 * over["height"]}
    canvas.click(position=place)
    assert text(visited, "#reading").startswith(f"Row {row + 1}, column {column + 1}: ")
    assert text(visited, "#announcement") == text(visited, "#reading")


def test_a_hot_cell_of_padding_is_not_drawn_but_told(opened):
    visited = opened(hot_page((90, 120), 5, 0))
    slide(visited, "opacity", 100)
    assert visited.page.locator("#pictures canvas").evaluate(HOT_BOX) == [1, 1, 0, 0]
    assert text(visited, "#sums").split("\n") == [
        "on the picture", "0 %", "on cells of padding", "50.0 %", "on the text", "50.0 %",
    ]  # fmt: skip


def test_shares_are_those_of_the_model(opened):
    page = make_page(num_clips=1, layers=2, heads=2)
    visited = opened(page)
    pick(visited, "word", 3)
    slide(visited, "head", 1)
    values = page.text_to_grid[0, 0, 0, 3]  # the first layer: in the last, words are not read
    top = values[:4].max()  # the picture touches the upper 4 of 7 rows
    assert float(text(visited, "#high").removesuffix(" %")) == pytest.approx(100 * top, rel=0.01)
    shares = [float(part.removesuffix(" %")) for part in text(visited, "#sums").split("\n")[1::2]]
    expected = [values[:4].sum(), values[4:].sum(), 1 - values.sum()]
    assert shares == pytest.approx([100 * share for share in expected], abs=0.06)


def test_maps_that_nothing_reads_say_so(opened):
    visited = opened(make_page())
    assert text(visited, 'output[for="layer"]') == "2 of 3"
    assert "changes nothing" not in text(visited, "#about")
    slide(visited, "layer", 2)
    assert "this map has no effect there" in text(visited, "#about")
    pick(visited, "word", 0)
    assert "changes nothing" not in text(visited, "#about")


def test_beyond_the_grid_there_is_no_cell(opened):
    """Pooling has dropped the right third of the picture."""
    visited = opened(make_page(width_share=1.5, height_share=1.0))
    canvas = visited.page.locator("#pictures canvas")
    box = canvas.bounding_box()
    canvas.click(position={"x": box["width"] * 0.9, "y": box["height"] * 0.1})
    assert text(visited, "#reading").startswith("Largest")
    canvas.click(position={"x": box["width"] * 0.6, "y": box["height"] * 0.1})
    assert text(visited, "#reading").startswith("Row 1, column ")


def test_all_works_by_keyboard(opened):
    visited = opened(make_page())
    page = visited.page
    pick(visited, "clip", 0)
    page.keyboard.press("ArrowRight")
    assert text(visited, "#clip-name") == "Clip 2 at 0:22"
    page.keyboard.press("Tab")  # to the words, at the picked one
    before = page.locator('input[name="word"]:checked').get_attribute("value")
    page.keyboard.press("ArrowLeft")
    assert page.locator('input[name="word"]:checked').get_attribute("value") == str(int(before) - 1)
    page.locator('input[name="word"][value="5"]').press("Enter")
    assert page.locator('input[name="word"][value="5"]').is_checked()
    canvas = page.locator("#pictures canvas")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        canvas.press(key)
    assert text(visited, "#reading").startswith("Row 2, column 2: ")
    canvas.press("Escape")
    assert text(visited, "#reading").startswith("Largest")
    head = page.locator('#heads button[tabindex="0"]')
    assert head.count() == 1
    head.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert (
        page.locator('#heads button[aria-current="true"]')
        .get_attribute("aria-label")
        .startswith("layer 1, head 1")
    )
    assert page.locator("#layer").input_value() == "0"
    page.locator("#head").press("ArrowRight")
    assert text(visited, 'output[for="head"]') == "2 of 4"


def test_pointing_at_a_word_previews_it_and_picks_nothing(opened):
    visited = opened(make_page())
    page = visited.page
    pick(visited, "word", 2)
    before = pixels(visited)
    page.locator('label:has(input[name="word"][value="5"])').hover()
    assert pixels(visited) != before
    assert page.locator('input[name="word"]:checked').get_attribute("value") == "2"
    page.locator("h1").hover()
    assert pixels(visited) == before


def test_heads_are_drawn_where_they_are_seen(opened):
    visited = opened(make_page(layers=12, heads=12, grid=(3, 3)), height=600)
    last = visited.page.locator('#heads button[data-layer="11"][data-head="12"]')
    assert last.get_attribute("data-drawn") is None
    last.scroll_into_view_if_needed()
    visited.page.wait_for_selector('#heads button[data-layer="11"][data-head="12"][data-drawn]')
    last.click()
    assert text(visited, 'output[for="layer"]') == "12 of 12"
    assert text(visited, 'output[for="head"]') == "12 of 12"


@pytest.mark.parametrize("width", [1280, 390])
def test_clips_stand_at_their_times(opened, width):
    page = make_page(num_clips=8, duration=14_400.0)
    visited = opened(page, width=width)
    axis = visited.page.locator(".axis .tick")
    centers = (
        "all => all.map(one => { const b = one.getBoundingClientRect(); return (b.left + b.right) / 2; })"
    )
    ticks = axis.evaluate_all(centers)
    assert text(visited, ".axis").split() == ["0:00:00", "1:00:00", "2:00:00", "3:00:00", "4:00:00"]
    places = [
        (place - ticks[0]) / (ticks[-1] - ticks[0])
        for place in visited.page.locator(".card").evaluate_all(centers)
    ]
    marks = [
        (mark - ticks[0]) / (ticks[-1] - ticks[0])
        for mark in visited.page.locator(".span").evaluate_all(centers)
    ]
    expected = [float(clip.seconds.mean()) / 14_400 for clip in page.clips]
    assert places == pytest.approx(expected, abs=0.005)
    assert marks == pytest.approx(expected, abs=0.01)
    boxes = [card.bounding_box() for card in visited.page.locator(".card").all()]
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            apart_x = abs(one["x"] - other["x"]) >= one["width"] - 1
            apart_y = abs(one["y"] - other["y"]) >= min(one["height"], other["height"])
            assert apart_x or apart_y


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 390])
def test_names_and_texts_do_nothing(opened, width):
    nasty = '</script><img src=x onerror="alert(2)"> \'" עברית ' + "long" * 40
    page = make_page(words="a b", video_name=NASTY)
    words = [dataclasses.replace(word, text=nasty) for word in page.words]
    page = dataclasses.replace(
        page, text=nasty, question=nasty, words=words, facts={nasty: nasty}, notes=[nasty]
    )
    visited = opened(page, width=width)
    for word in range(4):
        pick(visited, "word", word)
    assert nasty in text(visited, "#reading")
    assert visited.page.locator('img[src="x"]').count() == 0
    assert NASTY in text(visited, "header")


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 390])
def test_one_clip_of_one_frame(opened, width):
    visited = opened(make_page(num_clips=1, duration=0.0, layers=1, heads=1), width=width)
    assert text(visited, "#clip-name") == "Clip 1 at 0:00.0"
    assert visited.page.locator("#layer").is_disabled()
    card, mark = (visited.page.locator(one).bounding_box() for one in (".card", ".axis .span"))
    middle = [box["x"] + box["width"] / 2 for box in (card, mark)]
    assert middle[0] == pytest.approx(middle[1], abs=1)


def test_frames_of_a_clip_share_the_map(opened):
    visited = opened(make_page(num_clips=2, num_frames=4))
    maps = visited.page.locator("#pictures canvas").evaluate_all("all => all.map(one => one.toDataURL())")
    frames = visited.page.locator("#pictures img").evaluate_all("all => all.map(one => one.src)")
    assert len(maps) == 4
    assert len(set(maps)) == 1
    assert len(set(frames)) == 4
    assert "averages the frames of a clip" in text(visited, "#where")


def test_many_clips_and_frames_fit_the_screen(opened):
    visited = opened(make_page(num_clips=64, num_frames=8, layers=1, heads=1, grid=(2, 2)), width=390)
    pick(visited, "clip", 63)
    assert visited.page.locator("#pictures canvas").count() == 8


def test_maps_are_judged_beside_the_picture(opened):
    visited = opened(make_page())
    assert text(visited, "#verdict").startswith("This map is not evidence of what the model uses")
    pick(visited, "kind", "gradient")
    assert text(visited, "#verdict").startswith("Faithful in part")
    assert visited.page.locator("#judged").is_visible()
    pick(visited, "kind", "picture")
    assert not visited.page.locator("#judged").is_visible()
    assert "was not compared with the ablation" in text(visited, "#verdict")
    pick(visited, "kind", "attention")
    slide(visited, "head", 1)
    assert "was not compared with the ablation" in text(visited, "#verdict")


def test_without_scripts_clips_and_tables_are_there(opened):
    page = make_page()
    visited = opened(page, java_script_enabled=False)
    assert visited.page.locator(".card img").count() == 4
    assert not visited.page.locator("#where").is_visible()
    assert "need JavaScript" in text(visited, "body")
    assert visited.page.locator(".losses tbody tr").count() == 6 + 4 + 12
    assert visited.page.locator(".agreement tbody tr").count() == 7
