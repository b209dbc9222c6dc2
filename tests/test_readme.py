"""What the README and docs/commands.md say can be run as it stands."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

from experiments.cli import COMMANDS

ROOT = pathlib.Path(__file__).parents[1]
README, COMMANDS_PAGE = ROOT / "README.md", ROOT / "docs" / "commands.md"
TEXT = README.read_text()


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 120


def test_python_example_prints_what_its_comments_say(capsys: pytest.CaptureFixture[str]):
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})

    promised = [ast.literal_eval(shape) for shape in re.findall(r"print\(.*\)  # (\(.*?\))", example)]
    printed = [ast.literal_eval(line) for line in capsys.readouterr().out.splitlines()]
    assert len(promised) == 3
    assert printed == promised


@pytest.mark.parametrize("page", [README, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_targets_files_and_headings_that_a_page_names_exist(page: pathlib.Path):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, flags=re.MULTILINE)) <= targets
    for link in re.findall(r"\]\(([^)]+)\)", text):
        path, _, heading = link.partition("#")
        if "://" not in link:
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not heading or heading in headings(target), link


def headings(page: pathlib.Path) -> set[str]:
    """Return the anchors of a page, as they are made of its headings."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in found}


def test_every_command_has_its_place_on_the_page_of_commands():
    shown = {
        command
        for page in (README, COMMANDS_PAGE)
        for command in re.findall(r"^    clipbert (\S+)", page.read_text(), flags=re.MULTILINE)
    }
    assert shown <= set(COMMANDS)
    for command in COMMANDS:
        assert f"clipbert {command}" in COMMANDS_PAGE.read_text()
