"""Fits position tables of a file to a model with more or fewer positions, for `fit`.

One rule holds for text, rows and columns: entry i of a table is the i-th token, grid row or grid column,
whatever the size of the text or the frame. So common entries stay as they are, and the model draws those that
the file lacks. Vision transformers interpolate such tables, which always cover the whole picture; here,
interpolation would move positions that the other weights know. In the released checkpoints, too, entries
beyond the largest grid of training (12 of 100) keep their initial values.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

POSITION_TABLES = (
    "text_encoder/position_embeddings/embedding",
    "visual_embedding/row_embeddings/embedding",
    "visual_embedding/column_embeddings/embedding",
)
"""Flat names of the tables whose number of rows may differ."""


def resize_position_table(
    name: str, table: Shaped[np.ndarray, "*dims"], fresh: Shaped[np.ndarray, "n d"]
) -> tuple[Shaped[np.ndarray, "*resized"], str]:
    """Return a file's table with the number of rows that the model has, and a sentence about other rows.

    The sentence is empty if no rows were left out or drawn anew.

    A table of another width is returned unchanged; the later check of all shapes reports it.
    `fresh` is the model's own table with initial values.
    """
    if table.ndim != 2 or table.shape[1] != fresh.shape[1] or len(table) == len(fresh):
        return table, ""
    if len(table) > len(fresh):
        sentence = f"{name}: the first {len(fresh)} of the file's {len(table)} rows; the others are left out"
        return table[: len(fresh)], sentence
    sentence = (
        f"{name}: the file's {len(table)} rows, and {len(fresh) - len(table)} drawn anew, as the model has "
        f"{len(fresh)}"
    )
    return np.concatenate([table, fresh[len(table) :].astype(table.dtype)]), sentence
