"""The PyTorch peer of the benchmark computes what our model computes, and what the original computed."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from benchmarks.workloads import Workload, synthetic_batch
from clipbert_jax.batch import Batch
from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.model_def import split_model
from clipbert_jax.tasks.multiple_choice import MultipleChoiceQA
from clipbert_jax.tasks.pretraining import Pretraining
from clipbert_jax.tasks.retrieval import Retrieval
from clipbert_jax.training.optimizer import OptimizerConfig, make_optimizer
from clipbert_jax.training.sharding import make_mesh
from clipbert_jax.training.step import make_train_state, make_train_step
from clipbert_jax.training.train_config import TrainConfig
from clipbert_jax.weights.flat import flat_parameters
from clipbert_jax.weights.names.original_names import to_original
from tests.clipbert_jax.tasks.step_golden import FLOAT32, FLOAT64, Tolerances, fill, make_batch
from tests.goldens import golden

torch = pytest.importorskip("torch", reason="PyTorch is not a dependency")

from benchmarks import torch_peer, torch_trainer  # noqa: E402
from benchmarks.torch_model import PeerModel, load_original  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]

TASKS = {
    "retrieval": Retrieval(consensus="log_sum_exp"),
    "multiple_choice": MultipleChoiceQA(consensus="max"),
    "pretraining": Pretraining(num_sampled_tokens=2),
}


# Against the original.


def test_scores_of_every_clip_equal_the_original():
    case = golden.load_case("04c_inference")
    settings = golden.manifest()["cases"]["04c_inference.npz"]["meta"]["config"]
    frames = golden.frames(case["in/frames"])
    frames = frames.reshape(settings["videos"], settings["n_clips"], settings["n_frames"], *frames.shape[2:])
    texts = (settings["videos"], *case["in/text_input_ids"].shape)
    ids = np.broadcast_to(case["in/text_input_ids"], texts)
    mask = np.broadcast_to(case["in/text_input_mask"] > 0, texts)
    model = _golden_peer(Retrieval(), "retrieval_2")
    scores, _ = _run(model, frames, ids, mask)
    golden.assert_close(scores, case["f64/ret_ce/logits_per_clip"], 1e-4)


def test_pretraining_scores_equal_the_original():
    case = golden.load_case("03b_e2e_pretrain")
    counts = case["in/n_examples_list"]
    ids = fill(case["in/text_input_ids"], counts, 0)
    mask = fill(case["in/text_input_mask"], counts, 0) > 0
    is_text = np.arange(counts.max()) < counts[:, None]
    model = _golden_peer(Pretraining(), "pretrain")
    scores, token_scores = _run(model, golden.frames(case["in/frames"])[:, None], ids, mask)
    golden.assert_close(scores[:, 0][is_text], case["f64/itm_scores"], 1e-4)
    golden.assert_close(token_scores[:, 0][is_text], case["f64/mlm_scores"], 1e-4)


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("ret_ce_lse", Retrieval(consensus="log_sum_exp")),
        ("mc_lse", MultipleChoiceQA(consensus="log_sum_exp")),
    ],
)
def test_step_over_clips_equals_the_original(name, task):
    case, about = golden.load_case("04_consensus"), golden.manifest()["cases"]["04_consensus.npz"]
    inputs, settings = golden.part(case, f"in/{name}/"), about["meta"]["config"]
    num_videos = settings["B"]
    frames = golden.frames(case["in/frames"])
    frames = frames.reshape(num_videos, settings["n_clips"], settings["n_frames"], *frames.shape[2:])
    counts = np.full(num_videos, len(inputs["text_input_ids"]) // num_videos)
    is_choice = isinstance(task, MultipleChoiceQA)
    labels = inputs["labels"] if is_choice else inputs["labels"].reshape(num_videos, -1)
    batch, reference = make_batch(frames, inputs, counts, labels), golden.part(case, f"f64/{name}/")
    _check_golden_step(task, about["heads"][name], batch, reference, "float32", FLOAT32)


def test_pretraining_step_equals_the_original():
    case, about = golden.load_case("04b_image_steps"), golden.manifest()["cases"]["04b_image_steps.npz"]
    inputs = golden.part(case, "in/")
    counts = inputs["n_examples_list"]
    masked = fill(inputs["pretrain/mlm_labels"], counts, 3)
    batch = make_batch(
        golden.frames(inputs["frames"])[:, None],
        inputs,
        counts,
        fill(inputs["pretrain/itm_labels"], counts, 1),
        np.where(masked == -100, -1, masked),
    )
    task = Pretraining(masked_lm_on="all", masked_lm_average="all", num_sampled_tokens=0)
    reference = golden.part(case, "f64/pretrain/")
    _check_golden_step(task, about["heads"]["pretrain"], batch, reference, "float64", FLOAT64)


def _golden_peer(task, head_name: str) -> PeerModel:
    workload = _workload(task, golden.config(compute_dtype="float32"), kind="inference")
    return torch_trainer.make_model(workload, _golden_weights(head_name), "cpu")


def _golden_weights(head_name: str) -> dict[str, np.ndarray]:
    return golden.original_weights("weights_base", f"weights_head_{head_name}")


def _run(model: PeerModel, *arrays: np.ndarray):
    with torch.no_grad():
        scores, token_scores = model(*(torch.from_numpy(np.array(x)) for x in arrays))
    return scores.numpy(), None if token_scores is None else token_scores.numpy()


def _check_golden_step(
    task, head_name: str, batch: Batch, reference: dict[str, np.ndarray], dtype: str, tolerances: Tolerances
) -> None:
    workload = _workload(task, golden.config(compute_dtype=dtype))
    model = torch_trainer.make_model(workload, _golden_weights(head_name), "cpu")
    trainer = torch_trainer.Trainer(model, task, num_steps=10)
    loss, norm = trainer.step(torch_trainer.device_batch(task, batch, "cpu"))
    np.testing.assert_allclose(float(loss), reference["loss"][-1], rtol=tolerances.loss)
    np.testing.assert_allclose(float(norm), reference["grad_norm"][0], rtol=tolerances.norm)


# Against our model, on one of two stages.


@pytest.mark.parametrize(
    ("name", "is_norm_trainable"), [("retrieval", True), ("multiple_choice", False), ("pretraining", False)]
)
def test_two_updates_equal_ours(name, is_norm_trainable):
    workload = _workload(TASKS[name], _config(is_norm_trainable=is_norm_trainable))
    batch = _batch(workload)
    with jax.enable_x64(True):
        model = _our_model(workload)
        weights = to_original(flat_parameters(model))
        optimizer = make_optimizer(OptimizerConfig(), num_steps=100)
        mesh = make_mesh(jax.devices()[:1])
        model_def, state = make_train_state(model, optimizer, mesh, TrainConfig())
        step = make_train_step(model_def, workload.task, optimizer, mesh, TrainConfig())
        ours = []
        for _ in range(2):
            state, metrics = step(state, batch)
            ours.append((float(metrics["loss"]), float(metrics["grad_norm"])))
        updated = to_original({**state.params, **state.frozen})

    peer = torch_trainer.make_model(workload, weights, "cpu", dropout=False)
    trainer = torch_trainer.Trainer(peer, workload.task, num_steps=100)
    tensors = torch_trainer.device_batch(workload.task, batch, "cpu")
    samples = [torch_trainer.our_token_sample(workload, "cpu", number) for number in range(2)]
    theirs = [tuple(float(x) for x in trainer.step(tensors, sample)) for sample in samples]
    np.testing.assert_allclose(theirs, ours, rtol=1e-8)

    expected = PeerModel(workload.model, workload.task.head)
    load_original(expected, updated)
    for (key, parameter), other in zip(expected.named_parameters(), peer.parameters(), strict=True):
        if other.requires_grad:
            # Rates are float32 there, and the norm that divides has 1e-6 added.
            torch.testing.assert_close(other, parameter, rtol=1e-6, atol=1e-12, msg=key)


def test_losses_after_updates_equal_ours():
    workload = _workload(TASKS["pretraining"], _config("float32"))
    batch, model = _batch(workload), _our_model(workload)
    weights = to_original(flat_parameters(model))
    optimizer = make_optimizer(OptimizerConfig(), num_steps=100)
    mesh = make_mesh(jax.devices()[:1])
    model_def, state = make_train_state(model, optimizer, mesh, TrainConfig())
    step = make_train_step(model_def, workload.task, optimizer, mesh, TrainConfig())
    state, first = step(state, batch)
    state, second = step(state, batch)
    found = torch_trainer.first_losses(workload, weights, batch)
    expected = [float(first["loss"]), float(first["grad_norm"]), float(second["loss"])]
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-4)


@pytest.mark.parametrize("kind", ["inference", "pairs"])
@pytest.mark.parametrize("name", ["retrieval", "multiple_choice"])
def test_match_logits_equal_ours(name, kind):
    workload = _workload(TASKS[name], _config(), kind=kind)
    batch = _batch(workload)
    with jax.enable_x64(True):
        model = _our_model(workload)
        weights = to_original(flat_parameters(model))
        model_def, params, frozen = split_model(model)
        run = jax.jit(lambda arrays, *inputs: model_def.merge(arrays)(*inputs).scores)
        scores = run({**params, **frozen}, batch.frames, batch.text_ids, batch.text_mask)
        ours = np.asarray(workload.task.choice_logits(scores))
    peer = torch_trainer.make_model(workload, weights, "cpu")
    tensors = torch_trainer.device_batch(workload.task, batch, "cpu")
    if kind == "pairs":
        tensors = torch_trainer.with_visual_tokens(peer, tensors)
        assert "frames" not in tensors
    with torch.no_grad():
        theirs = torch_trainer.match_logits(peer, workload.task, tensors)
    np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-12)


# By itself.


def test_mask_that_hides_nothing_is_left_out():
    workload = _workload(TASKS["retrieval"], _config("float32"))
    batch = synthetic_batch(workload)
    assert torch_trainer.device_batch(workload.task, batch, "cpu")["text_mask"] is None
    assert torch_trainer.device_batch(workload.task, _batch(workload), "cpu")["text_mask"] is not None


def test_dropout_changes_the_loss():
    config = _config("float32")
    fusion = dataclasses.replace(config.fusion, dropout_rate=0.1, attention_dropout_rate=0.1)
    workload = _workload(TASKS["retrieval"], dataclasses.replace(config, fusion=fusion))
    weights = _weights(workload)
    losses = [
        torch_trainer.first_losses(workload, weights, _batch(workload), dropout=dropout)["loss"]
        for dropout in (False, False, True, True)
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 3


def test_bfloat16_stays_close_to_float32():
    losses = {}
    for dtype in ("float32", "bfloat16"):
        workload = _workload(TASKS["pretraining"], _config(dtype))
        weights = _weights(workload)
        losses[dtype] = list(torch_trainer.first_losses(workload, weights, _batch(workload)).values())
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.03)


def test_weights_must_fit_exactly():
    workload = _workload(TASKS["pretraining"], _config("float32"))
    weights = _weights(workload)
    model = PeerModel(workload.model, workload.task.head)
    load_original(model, {**weights, "cnn.feature.pixel_mean": np.zeros(3)})

    query = "transformer.bert.encoder.layer.0.attention.self.query.weight"
    with pytest.raises(RuntimeError, match=r"self\.qkv\.weight"):
        load_original(model, {name: x for name, x in weights.items() if name != query})
    with pytest.raises(RuntimeError, match=r"unheard\.of"):
        load_original(model, {**weights, "unheard.of": np.zeros(3)})
    with pytest.raises(ValueError, match=r"decoder\.weight"):
        load_original(model, {**weights, "transformer.cls.predictions.decoder.weight": np.zeros(3)})


def test_schedule_ends_with_its_steps():
    workload = _workload(TASKS["retrieval"], _config("float32"))
    model = torch_trainer.make_model(workload, _weights(workload), "cpu")
    trainer = torch_trainer.Trainer(model, workload.task, num_steps=20)
    assert {len(rates) for rates in trainer.rates.values()} == {20}
    assert trainer.rates["transformer"][:3] == pytest.approx([2.5e-5, 5e-5, 17 / 18 * 5e-5])


@pytest.mark.parametrize(
    "options", [["--no-compile"], pytest.param(["--rounds", "2", "--no-dropout"], marks=pytest.mark.slow)]
)
def test_command_prints_one_line_of_json(options, tmp_path):
    workload = next(x for x in torch_peer.SETS["demo"] if x.kind == "train")
    np.savez(tmp_path / "weights.npz", **_weights(workload))
    command = [sys.executable, "-m", "benchmarks.torch_peer", "--set", "demo", "--workload", workload.name]
    command += ["--device", "cpu", "--batch-size", "2", "--steps", "3", "--warmup", "2", *options]
    command += ["--weights", str(tmp_path / "weights.npz")]
    process = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (line,) = process.stdout.splitlines()
    record = json.loads(line)
    assert record["name"] == workload.name
    assert record["versions"]["torch"] == torch.__version__
    assert (record["batch_size"], record["num_steps"], record["unit"]) == (2, 3, "videos")
    assert len(record["round_medians"]) == record["options"]["num_rounds"]
    assert 0 < record["p10_seconds"] <= record["median_seconds"] <= record["p90_seconds"]
    assert record["items_per_second"] == pytest.approx(2 / record["median_seconds"])
    assert record["compile_seconds"] > 0
    assert record["peak_bytes"] > 2**20
    small = dataclasses.replace(workload, batch_size=2)
    with np.load(tmp_path / "weights.npz") as weights:
        expected = torch_trainer.first_losses(small, dict(weights), synthetic_batch(small))
    assert record["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert record["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)


def test_too_little_memory_is_a_result(monkeypatch, capsys):
    def measure(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(torch_peer, "measure", measure)
    torch_peer.main(["--set", "demo", "--workload", "tiny train", "--device", "cpu"])
    assert json.loads(capsys.readouterr().out)["out_of_memory"] is True


def test_without_torch_one_sentence_says_so():
    code = "import sys; sys.modules['torch'] = None; import benchmarks.torch_peer"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1
    assert process.stderr.count("\n") == 1
    assert "pip install torch" in process.stderr


def _config(dtype: str = "float64", *, is_norm_trainable: bool = False) -> ClipBertConfig:
    tiny = ClipBertConfig.tiny(vocab_size=50)
    pixel_encoder = dataclasses.replace(
        tiny.pixel_encoder, num_frozen_stages=2, is_norm_trainable=is_norm_trainable
    )
    return dataclasses.replace(tiny, pixel_encoder=pixel_encoder, compute_dtype=dtype)


def _workload(task, config: ClipBertConfig, kind="train") -> Workload:
    return Workload(
        name="test",
        kind=kind,
        task=task,
        model=config,
        batch_size=3,
        num_clips=2,
        num_frames=2,
        size=32,
        num_texts=3,
        text_length=6,
    )


def _batch(workload: Workload) -> Batch:
    """Return a batch with padded texts, a missing text and a missing video."""
    batch = synthetic_batch(workload)
    text_mask, text_valid = np.array(batch.text_mask), np.array(batch.text_valid)
    text_mask[0, 1, 4:] = False
    text_valid[1, 2] = False
    return dataclasses.replace(
        batch, text_mask=text_mask, text_valid=text_valid, example_mask=np.array([True, True, False])
    )


def _weights(workload: Workload) -> dict[str, np.ndarray]:
    return to_original(flat_parameters(_our_model(workload)))


def _our_model(workload: Workload) -> ClipBert:
    """Return our model with random values in the frozen norms too, so that they are seen to be used."""
    model = ClipBert(workload.model, workload.task.head, rngs=nnx.Rngs(0))
    random = np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        if "norm" in path and path[-1] in ("mean", "variance", "scale", "bias"):
            values = random.uniform(0.5, 1.5, variable.shape)
            variable.set_value(jax.numpy.asarray(values, variable.dtype))
    return model
