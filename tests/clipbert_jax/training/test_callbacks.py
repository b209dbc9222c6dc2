"""Callbacks are called at their moments, in order, and closed once, also after an error."""

import pytest
from flax import nnx

from clipbert_jax.models.clipbert import ClipBert
from clipbert_jax.training.callbacks import Callback, CallbackList
from clipbert_jax.training.validation import ValidationResult

from .conftest import TASK, small_config
from .test_loop import Batches, run


class Noted(Callback):
    """Writes down the moments at which it is called."""

    def __init__(self, moments, name="", error=None):
        self.moments, self.name, self.error = moments, name, error

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        if not hasattr(Callback, name) or name.startswith("_"):
            return found

        def noted(step=None, *rest):
            self.moments.append(f"{self.name}{name}" + ("" if step is None else f" {step}"))
            if (name, step) == self.error:
                raise ZeroDivisionError(self.name)

        return noted


def small_model():
    return ClipBert(small_config(), TASK.head, rngs=nnx.Rngs(0))


def validate(parameters, after_batch):
    after_batch()
    return ValidationResult(score=1.0, metrics={"accuracy": 1.0})


def test_the_moments_of_a_run(tmp_path):
    moments, options = [], {"num_validations": 1, "save_every_steps": 1}
    callbacks = [Noted(moments)]
    run(
        tmp_path,
        Batches([6]),
        model=small_model(),
        num_steps=2,
        train_options=options,
        validate=validate,
        callbacks=callbacks,
    )
    step = ["before_step {}", "before_dispatch {}", "after_step {}", "before_save {}", "after_save {}"]
    validation = ["before_validation 2", "on_validation_batch 2", "after_validation 2"]
    made = [moment.format(number) for number in (1, 2) for moment in step]
    assert moments == [*made, *validation, "at_end 2", "close"]


def test_an_error_closes_all_and_is_the_one_that_is_raised(tmp_path):
    moments = []
    callbacks = [Noted(moments, "first "), Noted(moments, "second ", error=("after_step", 2))]
    with pytest.raises(ZeroDivisionError, match="second"):
        run(tmp_path, Batches([6]), model=small_model(), num_steps=3, callbacks=callbacks)
    assert moments[-4:] == ["first after_step 2", "second after_step 2", "second close", "first close"]
    assert not any("at_end" in moment for moment in moments)


def test_an_error_of_a_close_does_not_keep_others_open():
    moments = []
    names = ("first ", "second ", "third ")
    callback = CallbackList(*(Noted(moments, name, error=("close", None)) for name in names))
    with pytest.raises(ZeroDivisionError, match="first"):
        callback.close()
    assert moments == ["third close", "second close", "first close"]
