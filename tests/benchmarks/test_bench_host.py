from __future__ import annotations

import contextlib
import json
import time

import jax
import pytest

from benchmarks import bench_host, input_speed
from benchmarks.first_step import AS_COMMANDS_DO, cold_and_warm
from benchmarks.input_speed import WaitingDevice, demo_corpus, overlap, steps_per_second
from benchmarks.programs import training
from benchmarks.workloads import find_workload, synthetic_batch
from clipbert_jax.models.kernel_choices import default_kernel_choices
from clipbert_jax.training.prefetch import Prefetcher
from clipbert_jax.training.sharding import make_mesh
from experiments.runtime.compilation_cache import MAX_BYTES, MIN_COMPILE_SECONDS

SMALL = ("smoke", "retrieval training")
STARTS = {
    "workload": "tiny train",
    **{
        kind: {
            "import_seconds": 1.0,
            "state_seconds": 2.0,
            "first_step_seconds": 3.0,
            "process_seconds": 6.5,
            "num_found": 0,
            "losses": ["0x1p0"],
        }
        for kind in ("cold", "warm")
    },
}


def test_the_stand_in_has_the_arrays_of_the_real_step():
    row = bench_host.dispatch(*SMALL, num_calls=5)
    workload = find_workload(*SMALL)
    make_state, _ = training(workload, make_mesh(jax.devices()[:1]), default_kernel_choices())
    arguments = jax.tree.leaves((jax.eval_shape(make_state), synthetic_batch(workload)))
    assert row["num_arrays"] == len(arguments) > 100
    assert 0 < row["median_seconds"] <= row["p90_seconds"]


class SlowBatches:
    """The same batch, each after some time."""

    def __init__(self, batch, seconds):
        self.batch, self.seconds = batch, seconds

    def __next__(self):
        time.sleep(self.seconds)
        return self.batch

    def get_state(self):
        return {}

    def close(self):
        pass


def rate(*, input_seconds, step_seconds):
    batch = synthetic_batch(find_workload(*SMALL, batch_size=1))
    device = WaitingDevice(step_seconds)
    with contextlib.closing(Prefetcher(SlowBatches(batch, input_seconds), lambda batch: batch)) as batches:
        return steps_per_second(batches, device, device.wait, seconds=0.6)


@pytest.mark.slow  # a busy machine may be late
def test_a_simulated_device_overlaps_with_its_input():
    assert 13 < rate(input_seconds=0.05, step_seconds=0.05) <= 20.5, "one after the other they would do 10"


def test_a_simulated_device_is_no_faster_than_itself_or_its_input():
    assert rate(input_seconds=0.0, step_seconds=0.05) <= 20.5
    assert rate(input_seconds=0.05, step_seconds=0.0) <= 20.5


def test_devices_are_fed_by_real_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(input_speed, "DEVICE_SHARES", (50.0, 0.5))
    fed = overlap(demo_corpus(tmp_path / "demo", num_videos=6), 0, seconds=0.5)
    fast, slow = fed["devices"]
    assert slow["videos_per_second"] < fed["decoders_videos_per_second"]
    assert fast["ratio"] < slow["ratio"] <= 1.01


def test_the_tables_say_what_was_measured(tmp_path, monkeypatch):
    corpus = {
        "name": "videos",
        "batch_size": 4,
        "core_seconds_per_video": 0.05,
        "videos_per_second_per_core": 20.0,
        "needed_cores": {"200": 10},
        "overlap": {
            "num_workers": 2,
            "decoders_videos_per_second": 40.0,
            "devices": [
                {"share_of_decoders": 0.8, "step_seconds": 0.125, "videos_per_second": 31.0, "ratio": 0.97}
            ],
        },
    }
    ours = {
        "num_workers": 2,
        "batch_size": 32,
        "steps_per_second": {"decoded": 3.0, "synthetic": 4.0},
        "ratio": 0.75,
    }
    other = STARTS | {"warm": STARTS["warm"] | {"losses": ["0x1p1"]}}
    assert "NO" in bench_host.first_step_table([other])
    monkeypatch.setattr(bench_host, "BASES", {"cpu": SMALL})
    monkeypatch.setattr(bench_host, "DEMO", SMALL)
    monkeypatch.setattr(bench_host, "cold_and_warm", lambda *names: STARTS)
    monkeypatch.setattr(
        bench_host, "input_speed", lambda *args, **options: {"corpora": [corpus], "end_to_end": ours}
    )
    record = bench_host.main(["--quick", "--out", str(tmp_path / "host")])
    assert json.loads((tmp_path / "host.json").read_text()) == record
    text = (tmp_path / "host.md").read_text()
    assert "a device of R videos/s takes 0.05 x R cores: 10 for 200 videos/s" in text
    assert "| 125.0 | 32.0 | 80% | 31.0 | 0.97 |" in text
    assert "| tiny train, warm | 1.0 | 2.0 | 3.0 | 6.5 | 0 | yes |" in text
    assert "0.75 of it" in text


def test_first_steps_keep_programs_as_commands_do():
    assert float(AS_COMMANDS_DO["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]) == MIN_COMPILE_SECONDS
    assert int(AS_COMMANDS_DO["JAX_COMPILATION_CACHE_MAX_SIZE"]) == MAX_BYTES


@pytest.mark.slow
def test_a_second_start_finds_the_programs_of_the_first(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    starts = cold_and_warm(*SMALL)
    assert starts["cold"]["num_found"] == 0
    assert starts["warm"]["num_found"] == starts["cold"]["num_kept"] > 0
    assert starts["warm"]["losses"] == starts["cold"]["losses"]
    assert starts["warm"]["first_step_seconds"] < starts["cold"]["first_step_seconds"]
