"""The full-size model, BERT-base and ResNet-50 at 448 pixels, against the original (golden case 09)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from clipbert_jax.models.heads import PretrainingHeadConfig
from tests.goldens import golden


def test_full_size_model_equals_the_original():
    case = golden.load_case("09_fullsize")
    reference = golden.part(case, "f64/")
    with jax.enable_x64(True):
        model = golden.model(PretrainingHeadConfig(), "pretrain", size="full")
        frames = golden.resized_frames(case["in/frames_raw"], int(case["in/max_img_size"]), "float64")
        text_ids, text_mask = case["in/text_input_ids"][None], case["in/text_input_mask"][None] > 0
        grid = golden.run(model.pixel_encoder, frames)
        visual_tokens = model.visual_embedding(grid[:, None])
        output = model.score_texts(visual_tokens, text_ids, text_mask, return_hidden_states=True)
        token_scores, last = output.token_scores[0, 0], output.hidden_states[-1][0, 0]
        length = text_ids.shape[-1]
        actual = {
            "grid_every_7th_channel": grid[..., ::7],
            "pooled_output": output.pooled[0, 0],
            "sequence_text": last[:, :length],
            "sequence_visual_every_5th_token": last[:, length::5],
            "mlm_scores_every_101st": token_scores[..., ::101],
            "mlm_logsumexp": jax.nn.logsumexp(token_scores, axis=-1),
            "itm_scores": output.scores[0, 0],
        }
        for layer in (0, 4, 8):
            actual[f"hidden_{layer}_first_token"] = output.hidden_states[layer][0, 0, :, 0]
        np.testing.assert_array_equal(jnp.argmax(token_scores, axis=-1), reference.pop("mlm_argmax"))
        assert actual.keys() == reference.keys()
        for key, array in actual.items():
            # The original resized the frames in float32, which alone makes 1e-7 to 1e-6.
            golden.assert_close(array, reference[key], 5e-6, key)
