"""The notebooks are clean and run from top to bottom, on a model that is trained in seconds."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from jupyter_client.manager import KernelManager

from experiments.notebook.run import FOLDER_VARIABLE, NotebookScale, how_good, train_quickly
from tests.xla_flags import COMPILE_FAST

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
NAMES = sorted(path.name for path in FOLDER.glob("*.ipynb"))
TINY = NotebookScale(
    num_images=16,
    num_videos=16,
    num_test=12,
    image_steps=2,
    image_batch_size=8,
    video_steps=4,
    video_batch_size=8,
    num_checkpoints=2,
    size=48,
)
LONGEST_CELL = 16
"""Lines: what is longer belongs into the library."""


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text())


def code_cells(name: str) -> list[str]:
    return ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == "code"]


def test_there_are_five():
    assert [name[:3] for name in NAMES] == ["01_", "02_", "03_", "04_", "05_"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_in_them_that_a_run_has_left(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert [cell["id"] for cell in notebook["cells"]] == [
        f"cell-{number:02d}" for number in range(1, len(notebook["cells"]) + 1)
    ]
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_short_and_begin_alike(name):
    assert read(name)["cells"][0]["cell_type"] == "markdown"
    colab, model, *others = code_cells(name)
    first = code_cells(NAMES[0])
    assert [colab, model] == first[:2]
    assert "google.colab" in colab
    assert "git clone --depth 1 {REPOSITORY}" in colab
    for cell in others:
        lines = cell.splitlines()
        assert len(lines) <= LONGEST_CELL, cell
        assert max(map(len, lines)) <= 110, cell
        assert not re.search(r"^ *(def|class) ", cell, flags=re.MULTILINE), cell


class Shell:
    """Stands in for IPython in Colab: notes commands, and clones what looks like the repository."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def system(self, command: str) -> None:
        self.commands.append(command)
        Path("clipbert_jax/clipbert_jax").mkdir(parents=True)
        Path("clipbert_jax/setup.cfg").touch()

    def run_line_magic(self, name: str, line: str) -> None:
        self.commands.append(f"{name} {line}".strip())
        if name == "cd":
            os.chdir(line)


@pytest.fixture
def setup_in_colab(tmp_path, monkeypatch):
    """Return a function: an address that is filled in -> the commands of the first cell in Colab."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))

    def run(address: str) -> list[str]:
        shell = Shell()
        cell = code_cells(NAMES[0])[0].replace("https://...", address)
        cell = cell.replace("{REPOSITORY}", address)  # IPython would
        exec(TransformerManager().transform_cell(cell), {"get_ipython": lambda: shell})
        return shell.commands[:-1]

    return run


def test_in_colab_the_code_is_cloned_once(setup_in_colab, tmp_path):
    install = "pip install --quiet -c constraints.txt -e ."
    clone = "git clone --depth 1 https://example.org/it clipbert_jax"
    assert setup_in_colab("https://example.org/it") == [clone, "cd clipbert_jax", install]
    assert setup_in_colab("https://example.org/it") == [install]
    os.chdir(tmp_path)  # as after a restart
    assert setup_in_colab("https://...") == ["cd clipbert_jax", install]


def test_in_colab_an_address_that_is_missing_is_asked_for(setup_in_colab):
    with pytest.raises(ValueError, match="Fill in REPOSITORY"):
        setup_in_colab("https://...")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("notebooks")
    train_quickly(root, TINY)
    return root


@pytest.fixture(scope="module")
def kernel(folder):
    """A kernel for all notebooks, as each would import the same for seconds."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(FOLDER_VARIABLE, str(folder))
        environment.setenv("XLA_FLAGS", COMPILE_FAST)  # one device, as a user has
        environment.setenv("PYTHONPATH", str(ROOT))
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, folder, kernel):
    notebook = nbformat.reads((FOLDER / name).read_text(), as_version=4)
    # As Jupyter does, in the notebook's folder; one of them also as an editor may, in the repository.
    where = ROOT if name == NAMES[0] else FOLDER
    # No notebook sees a name of the one before.
    for line in ("%reset -f", f"import os; os.chdir({str(where)!r})"):
        notebook.cells.insert(0, nbformat.v4.new_code_cell(line))
    client = nbclient.NotebookClient(notebook, km=kernel, timeout=300)
    try:
        client.execute()
    finally:
        client.kc.stop_channels()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    assert f"model: {folder / 'runs' / 'notebooks' / 'videos'}, step 4" in printed
    assert "Warning" not in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3


def test_a_finished_model_is_not_trained_again(folder, monkeypatch, capsys):
    from experiments.notebook.run import kept_steps, notebook_run

    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    before = (folder / "runs" / "notebooks" / "videos" / "results.json").stat().st_mtime_ns
    run = notebook_run()
    assert (run.step, kept_steps(run)) == (4, [2, 4])
    assert Path(run.experiment.data.data_dir) == folder / "data" / "notebooks" / "videos"
    assert (folder / "runs" / "notebooks" / "videos" / "results.json").stat().st_mtime_ns == before
    assert notebook_run("runs/notebooks/videos", step=2).step == 2
    assert "make demo" not in capsys.readouterr().out


def test_the_model_of_the_demo_is_taken_if_it_is_there(folder, tmp_path, monkeypatch):
    from experiments.notebook.run import notebook_run

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    shutil.copytree(folder / "runs" / "notebooks" / "videos", tmp_path / "runs" / "demo")
    (tmp_path / "data" / "demo").mkdir(parents=True)
    assert notebook_run().workdir == tmp_path / "runs" / "demo"


def test_it_is_said_how_good_a_model_is(folder, tmp_path):
    said = how_good(folder / "runs" / "notebooks" / "videos")
    pattern = (
        r"with 8 clips it finds the right one of 12 test videos for \d+ % of the captions \(chance 8.3 %\)"
    )
    assert re.fullmatch(pattern, said)
    assert how_good(tmp_path) == "never evaluated"
