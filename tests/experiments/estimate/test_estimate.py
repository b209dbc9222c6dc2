"""`clipbert estimate`: what it prints, what it takes from data, what it says to mistakes."""

import dataclasses
import importlib.util
import json

import pytest

from clipbert_jax.costs.compiler import PLUGINS
from clipbert_jax.training.train_program import batch_arrays
from data_pipelines.annotations.records import Caption
from data_pipelines.annotations.store import read_records
from experiments.cli import main
from experiments.configs import EXPERIMENTS
from experiments.estimate import estimate as estimate_numbers
from experiments.estimate.lines import check_lines, comparison_lines
from experiments.estimate.plan import make_plan
from tests.experiments.conftest import SMALL, TASKS, fails


def run(capsys, *arguments):
    main(["estimate", *map(str, arguments)])
    return capsys.readouterr()


def numbers(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--no-check", "--json").out)


def test_text_says_what_each_number_is(capsys):
    options = ("--device", "h100", "--num-devices", 8, "--num-examples", 140_200, "--no-check")
    said = run(capsys, "msrvtt/retrieval_corrected", *options).out
    assert "8 h100, 128 videos an update: 16 at once on each device" in said
    for part in (
        "counted in the traced step",
        "estimated: memory",
        "assumed, not measured",
        "assumed (--decode-ms)",
    ):
        assert part in said
    assert "148.5 M 148.2 M trained" in said
    assert "2,061.4 GFLOP" in said
    assert "16 videos at once fit" in said
    assert "at that rate, for 21,907 updates" in said


def test_json_adds_up(capsys):
    found = numbers(capsys, "msrvtt/retrieval_corrected", "--device", "v5e", "--num-devices", 16)
    flops, memory, time = found["flops_per_video"], found["memory"], found["time"]
    assert flops["total"] == flops["forward"] + flops["backward"]
    assert memory["fits"]
    assert (memory["most_videos_at_once"], memory["accumulation_that_fits"]) == (8, 1)
    assert memory["parameters"] + memory["optimizer"] + memory["batch"] < memory["program"] < memory["peak"]
    assert time["videos_per_second"] == pytest.approx(16 * 0.65e3 / time["floor_ms_per_video"])
    assert found["decoding"]["core_ms_per_video"] == 55
    # 20 epochs of data that is not there.
    assert time["num_steps"] is None
    assert time["hours"] is None


def test_a_batch_that_does_not_fit_gets_parts(capsys):
    options = ("--device", "v5e", "--num-devices", 2, "--no-check")
    said = run(capsys, "msrvtt/retrieval_corrected", *options).out
    assert "64 videos at once do not fit; --train.num-accumulation-steps 8 makes them fit" in said
    said = run(capsys, "msrvtt/retrieval_corrected", *options, "--train.num-accumulation-steps", 8).out
    assert "8 videos at once fit" in said
    assert "hours: epochs of data that is not there; give --num-examples" in said


def test_levers_show(capsys):
    plain = numbers(capsys, "msrvtt/retrieval_corrected", "--device", "h100", "--num-devices", 8)
    full = numbers(
        capsys, "msrvtt/retrieval_corrected", "--device", "h100", "--num-devices", 8, "--train.remat", "full",
        "--mesh.fsdp", 8,
    )  # fmt: skip
    assert full["memory"]["peak"] < 0.6 * plain["memory"]["peak"]
    assert full["memory"]["optimizer"] == pytest.approx(plain["memory"]["optimizer"] / 8, rel=0.01)
    assert full["flops_per_video"]["recomputed"] > 0
    assert full["time"]["videos_per_second"] < plain["time"]["videos_per_second"]


def test_data_that_is_there_is_counted(data_dir, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no data/demo is
    assumed = numbers(capsys, "demo/retrieval", "--device", "h100", "--model.fusion.vocab-size", 0)
    known = numbers(
        capsys, "demo/retrieval", "--device", "h100", "--data-dir", data_dir, "--model.fusion.vocab-size", 0,
        "--train.num-steps", 0, "--train.num-epochs", 12,
    )  # fmt: skip
    assert any("30,522 words" in line for line in assumed["assumptions"])
    assert not any("words" in line for line in known["assumptions"])
    assert known["parameters"]["total"] < assumed["parameters"]["total"]
    num_captions = len(read_records(data_dir, Caption, "train"))
    assert known["time"]["num_steps"] == -(-12 * num_captions // 32)


@pytest.mark.parametrize(("task", "num_texts"), [*zip(TASKS, (6, 5, 1, 2, 2, 2), strict=True)])
def test_every_task_has_a_plan_without_data(task, num_texts):
    experiment = EXPERIMENTS[f"demo/{task}"]()
    elsewhere = dataclasses.replace(experiment.data, data_dir="nowhere")
    plan = make_plan(dataclasses.replace(experiment, data=elsewhere), num_devices=1, num_examples=None)
    assert plan.setting.shape.num_texts == num_texts
    assert plan.num_steps == experiment.train.num_steps
    assert all(x.shape for x in batch_arrays(plan.setting).values())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--num-devices", "3"], "--train.batch-size 32 does not divide"),
        (["--num-examples", "-5"], "--num-examples must be"),
        (["--decode-ms", "-3"], "--decode-ms must be"),
        (["--decode-ms", "nan"], "--decode-ms must be"),
        (
            ["--timeout-minutes", "0", "--compile"],
            "--timeout-minutes must be",
        ),
        (["--num-devices", "0"], "--num-devices must be at least 1"),
        (["--num-devices", "4", "--mesh.fsdp", "3"], "--mesh.fsdp 3 times --mesh.tensor 1 must divide the 4"),
        (["--topology", "h100:8"], "--topology h100:8 is not one of --device v5e"),
        (["--topology", "v5e:2x2", "--num-devices", "8"], "--topology v5e:2x2 has 4 devices, not 8"),
        (["--topology", "v5e:two"], "not a topology"),
        (["--compile", "--num-devices", "16"], "--topology must say how 16 v5e are connected"),
        (["--model.fusion.num-heads", "5"], "the model cannot be built"),
    ],
)
def test_mistakes_are_a_sentence(options, expected, capsys):
    assert expected in fails(
        ["estimate", "demo/retrieval", "--device", "v5e", "--no-check", *options], capsys
    )


@pytest.mark.skipif(importlib.util.find_spec(PLUGINS["gpu"]) is not None, reason="the compiler is here")
def test_a_compiler_that_is_not_here_is_said(capsys):
    arguments = ["estimate", "demo/retrieval", "--device", "h100", "--no-check", "--compile"]
    said = fails(arguments, capsys)
    assert "lacks jax_cuda13_plugin" in said
    assert "--python .venv-cuda/bin/python" in said


def test_the_step_is_compiled_for_this_cpu(capsys):
    said = run(capsys, "demo/retrieval", "--device", "h100", "--json", *SMALL)
    check = json.loads(said.out)["check"]
    assert "compiling the step" in said.err
    for pair in (check["forward_flops"], check["flops"], check["memory"]):
        assert pair["estimated"] == pytest.approx(pair["compiled"], rel=0.3)  # a model of a few numbers
    assert "8 videos" in next(iter(check_lines(check)))


def test_a_compiler_is_set_beside_the_estimate(monkeypatch):
    plan = make_plan(EXPERIMENTS["demo/retrieval"](), num_devices=8, num_examples=None)
    compiled = {
        "num_devices": 8,
        "compiler_flops": None,
        "compiler_seconds": -3.0,
        "argument_bytes": 3 * 10**6,
        "temporary_bytes": 5 * 10**6,
        "program_bytes": 8 * 10**6,
        "moved_bytes": 3 * 10**9,
        "collectives": {"all-reduce": 2},
        "compile_seconds": 60.0,
    }
    asked = []
    monkeypatch.setattr(
        estimate_numbers, "compile_elsewhere", lambda request, *_, **__: asked.append(request) or compiled
    )
    request = estimate_numbers.CompileRequest(setting=plan.setting, target="h100:8")
    device = estimate_numbers.Device(fp32_flops=1e12, bandwidth=1e12, source="made up")
    found = estimate_numbers.compare_with_compiler(request, device, python="python", timeout_seconds=1.0)
    assert asked == [request]
    lines = list(comparison_lines(found))
    assert "one of 8 devices" in lines[0]
    products, arguments, time = (
        next(line for line in lines if line.strip().startswith(name))
        for name in ("products", "state", "time ")
    )
    assert "the compiler does not say" in products
    assert "3.00 MB" in arguments
    assert "the compiler does not say" in time
    assert any("3.0 ms at the device's bandwidth" in line for line in lines)
    assert any("2 all-reduce" in line for line in lines)
