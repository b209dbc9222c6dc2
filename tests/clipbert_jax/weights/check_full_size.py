"""A full-size checkpoint, written by torch in both formats, converted and back. For development: needs torch.

    PYTHONPATH=. python tests/clipbert_jax/weights/check_full_size.py FOLDER --python .venv/bin/python

Weights are those of the reference values; the converted model must give their scores. `--python` is that of
an environment with this package; it may have no torch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

VOCAB_SIZE = 30522
UNREAD = {"transformer.bert.visual_embeddings.position_embeddings.weight"}
"""Arrays that the original does not read; the detector's parts have no values here."""

SCORES = """
import sys
sys.path.insert(0, ".")
import numpy as np
import clipbert_jax
from tests.goldens import golden
case = golden.load_case("09_fullsize")
model = clipbert_jax.load(sys.argv[1])
state = golden.original_weights("weights_full_base", "weights_full_head_pretrain")
from tests.clipbert_jax.weights.names.original_weights import from_original
expected = from_original(state)
assert expected.keys() == model.parameters.keys()
for name, array in expected.items():
    np.testing.assert_array_equal(model.parameters[name], array, err_msg=name)
print(len(expected), "arrays are those that the reference scores were computed with")

import dataclasses
import jax
# The experiment computes in bfloat16, whose 8 bits would hide what is wrong.
config = dataclasses.replace(model.config, compute_dtype="float32")
module = dataclasses.replace(model, config=config).model()
frames = golden.resized_frames(case["in/frames_raw"], int(case["in/max_img_size"]), "float32")
visual_tokens = module.visual_embedding(golden.run(module.pixel_encoder, frames)[:, None])
text_ids, text_mask = case["in/text_input_ids"][None], case["in/text_input_mask"][None] > 0
output = golden.run(module, visual_tokens, text_ids, text_mask, method="score_texts")
found = {
    "itm_scores": output.scores[0, 0],
    "mlm_logsumexp": jax.nn.logsumexp(output.token_scores[0, 0], axis=-1),
}
for name, scores in found.items():
    golden.assert_close(scores, case[f"f64/{name}"], 1e-3, name)  # in float32, through all layers
print("and give them:", ", ".join(found))
"""


def convert(python: str, arguments: list[str]) -> tuple[float, float]:
    """Run `clipbert convert`; return seconds and GB at most."""
    start = time.perf_counter()
    command = ["/usr/bin/time", "-f", "%M", python, "-m", "experiments.cli", "convert", *arguments]
    done = subprocess.run(command, check=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    return time.perf_counter() - start, int(done.stderr.split()[-1]) / 1e6


def main() -> None:
    """Check both formats."""
    import torch

    from tests.goldens import golden

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    vocab = options.folder / "vocab.txt"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{index}" for index in range(VOCAB_SIZE - len(words))]
    vocab.write_text("".join(f"{word}\n" for word in words))
    state = golden.original_weights("weights_full_base", "weights_full_head_pretrain")
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in state.items()}
    for alias, name in {
        "transformer.cls.predictions.decoder.weight": "transformer.bert.embeddings.word_embeddings.weight",
        "transformer.cls.predictions.decoder.bias": "transformer.cls.predictions.bias",
    }.items():
        tensors[alias] = tensors[name]
    for kind in ("zip", "legacy"):
        path, out = options.folder / f"{kind}.pt", options.folder / kind
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "zip")
        seconds, peak = convert(options.python, [str(path), "--vocab", str(vocab), "--out", str(out)])
        print(
            f"{kind}: {path.stat().st_size / 1e6:.0f} MB to ours in {seconds:.1f} s, {peak:.2f} GB",
            flush=True,
        )
        subprocess.run([options.python, "-c", SCORES, str(out)], check=True)
        back = options.folder / f"{kind}-back.pt"
        seconds, peak = convert(options.python, [str(out), "--to", "torch", "--out", str(back)])
        print(f"{kind}: back in {seconds:.1f} s, {peak:.2f} GB", flush=True)
        again = torch.load(back, weights_only=True)
        layout = golden.state_dict_layout()
        keys = {entry["key"] for entry in (*layout["common"], *layout["heads"]["pretrain"])}
        assert again.keys() == keys, again.keys() ^ keys
        read = [name for name in tensors if name not in UNREAD]
        assert all(torch.equal(again[name], tensors[name]) for name in read)
        print(
            f"{kind}: {len(keys)} keys, {len(read)} tensors byte for byte those of the beginning", flush=True
        )


if __name__ == "__main__":
    main()
