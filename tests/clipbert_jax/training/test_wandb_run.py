"""Weights & Biases, by a stand-in that writes down what it is told."""

import sys
from types import ModuleType

import pytest

from clipbert_jax.errors import UserError
from clipbert_jax.training.wandb_run import WandbRun


class StandIn(ModuleType):
    """Takes runs as the package does in WANDB_MODE=offline: without an account, and without a network."""

    class Error(Exception):
        pass

    def __init__(self, *, refusal=None):
        super().__init__("wandb")
        self.refusal, self.runs = refusal, []

    def init(self, **options):
        if self.refusal:
            raise self.Error(self.refusal)
        self.runs.append(FakeRun(options))
        return self.runs[-1]


class FakeRun:
    def __init__(self, options):
        self.options, self.records, self.axes, self.is_finished = options, [], {}, False

    def define_metric(self, name, *, step_metric):
        self.axes[name] = step_metric

    def log(self, record):
        self.records.append(record)

    def finish(self):
        self.is_finished = True


@pytest.fixture
def wandb(monkeypatch):
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_a_run_directory_is_one_run_there_however_often_it_starts(wandb, tmp_path):
    workdir = tmp_path / "retrieval"
    workdir.mkdir()
    for step in (1, 2):
        run = WandbRun("videos", workdir, {"train": {"seed": 0}})
        run.write({"step": step, "loss": 0.5})
        run.close()
    first, second = wandb.runs
    assert first.options == second.options
    assert first.options["project"] == "videos"
    assert first.options["name"] == "retrieval"
    assert first.options["config"] == {"train": {"seed": 0}}
    assert first.options["resume"] == "allow"
    assert "mode" not in first.options, "WANDB_MODE decides"
    assert (first.records, second.records) == ([{"step": 1, "loss": 0.5}], [{"step": 2, "loss": 0.5}])
    assert first.axes == {"*": "step"}
    assert first.is_finished
    other = tmp_path / "other"
    other.mkdir()
    WandbRun("videos", other, {})
    assert wandb.runs[-1].options["id"] != first.options["id"]


@pytest.mark.parametrize("module", [None, ModuleType("wandb")])  # not there, or a folder of that name
def test_a_missing_package_is_named_with_its_extra(module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UserError, match=r"pip install 'clipbert_jax\[wandb\]'"):
        WandbRun("videos", tmp_path, {})


def test_a_refusal_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", StandIn(refusal="No API key configured."))
    with pytest.raises(UserError, match=r"No API key configured\..*WANDB_MODE=offline"):
        WandbRun("videos", tmp_path, {})
