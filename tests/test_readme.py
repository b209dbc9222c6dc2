"""What the README says can be run as it stands."""

from __future__ import annotations

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_python_example_prints_what_its_comments_say(capsys: pytest.CaptureFixture[str]):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})

    promised = [ast.literal_eval(shape) for shape in re.findall(r"print\(.*\)  # (\(.*?\))", example)]
    printed = [ast.literal_eval(line) for line in capsys.readouterr().out.splitlines()]
    assert len(promised) == 3
    assert printed == promised


def test_targets_and_files_that_it_names_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
