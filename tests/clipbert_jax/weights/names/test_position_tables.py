"""Tables of positions of another size than the model's."""

from __future__ import annotations

import numpy as np
import pytest
from flax import nnx

from clipbert_jax.config import ClipBertConfig
from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.models.heads import ClassifierHeadConfig
from clipbert_jax.weights.flat import parameter_shapes
from clipbert_jax.weights.names.position_tables import (
    POSITION_TABLES,
    resize_position_table,
)

NAME = "visual_embedding/row_embeddings/embedding"


def rows(number: int, width: int = 4, start: int = 0) -> np.ndarray:
    return (np.arange(number * width, dtype=np.float32) + start).reshape(number, width)


@pytest.mark.parametrize("name", POSITION_TABLES)
def test_a_longer_table_gives_its_first_rows(name: str) -> None:
    table, sentence = resize_position_table(name, rows(10), rows(6, start=1000))
    np.testing.assert_array_equal(table, rows(10)[:6])
    assert sentence == f"{name}: the first 6 of the file's 10 rows; the others are left out"


@pytest.mark.parametrize("name", POSITION_TABLES)
def test_a_shorter_table_is_followed_by_rows_of_the_model(name: str) -> None:
    fresh = rows(10, start=1000)
    table, sentence = resize_position_table(name, rows(6), fresh)
    np.testing.assert_array_equal(table, np.concatenate([rows(6), fresh[6:]]))
    assert sentence == f"{name}: the file's 6 rows, and 4 drawn anew, as the model has 10"


def test_the_type_is_the_files() -> None:
    table, _ = resize_position_table(NAME, rows(2).astype(np.float16), rows(3))
    assert table.dtype == np.float16


@pytest.mark.parametrize("table", [rows(10), rows(3, width=5), np.zeros(4, np.float32)])
def test_what_fits_and_what_no_rule_makes_fit_stays(table: np.ndarray) -> None:
    resized, sentence = resize_position_table(NAME, table, rows(10))
    assert resized is table
    assert not sentence


def test_the_names_are_those_of_the_model() -> None:
    head = ClassifierHeadConfig(num_outputs=2)
    model = nnx.eval_shape(lambda: ClipBert(ClipBertConfig.tiny(), head, rngs=nnx.Rngs(0)))
    sizes = ClipBertConfig.tiny().fusion
    shapes = parameter_shapes(model)
    assert [shapes[name][0] for name in POSITION_TABLES] == [
        sizes.max_text_length,
        sizes.max_grid_rows,
        sizes.max_grid_columns,
    ]
    assert set(POSITION_TABLES) <= shapes.keys()
