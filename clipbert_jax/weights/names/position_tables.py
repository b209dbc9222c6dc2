"""Fits tables of positions from a file to a model that has more or fewer positions.

One rule for text, rows and columns: row i of a table is the i-th token, grid row or grid column, whatever the
length of the text or the size of the frames. So the rows that both have stay as they are, and rows that the
file has not are new ones of the model. They are not interpolated, as those of vision transformers are, whose
table always covers the whole picture: here that would move positions that the other weights know. In the
released checkpoints, too, all rows beyond the largest grid of training (12 at 768 pixels, of 100) are as they
were drawn.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Shaped

POSITION_TABLES = (
    "text_encoder/position_embeddings/embedding",
    "visual_embedding/row_embeddings/embedding",
    "visual_embedding/column_embeddings/embedding",
)
"""Our flat names."""


@dataclasses.dataclass(frozen=True)
class ResizedTable:
    """A table with as many rows as the model has, if it can have them."""

    table: Shaped[np.ndarray, "*dims"]
    sentence: str
    """What was left out or drawn anew; empty if nothing was."""


def is_position_table(name: str) -> bool:
    """Tell whether a flat name is that of a table whose number of rows may differ."""
    return name in POSITION_TABLES


def resize_position_table(
    name: str, table: Shaped[np.ndarray, "*dims"], fresh: Shaped[np.ndarray, "n d"]
) -> ResizedTable:
    """Return a file's table with the number of rows that the model has.

    A table of another width is returned as it is: no rule makes it fit; the check of all shapes reports it.

    Args:
      name: our flat name, for the sentence.
      table: of the file.
      fresh: the model's own table, drawn anew.
    """
    if table.ndim != 2 or table.shape[1] != fresh.shape[1] or len(table) == len(fresh):
        return ResizedTable(table, "")
    if len(table) > len(fresh):
        sentence = f"{name}: the first {len(fresh)} of the file's {len(table)} rows; the others are left out"
        return ResizedTable(table[: len(fresh)], sentence)
    sentence = (
        f"{name}: the file's {len(table)} rows, and then {len(fresh) - len(table)} drawn anew, as the model "
        f"has {len(fresh)}"
    )
    return ResizedTable(np.concatenate([table, fresh[len(table) :].astype(table.dtype)]), sentence)
