"""What an error of storage, of a device or of another process says, and whether a restart may help."""

import errno

import jax
import pytest
import tensorstore

from clipbert_jax.errors import TemporaryError, UserError, explain_full_device, is_temporary, os_error_number
from clipbert_jax.training.checkpoint_items import is_of_storage, readable
from clipbert_jax.training.coordination import is_of_lost_process


@pytest.fixture
def of_tensorstore(tmp_path):
    """Return a function: number of the system -> the error of TensorStore, which has met a real one."""
    (tmp_path / "file").touch()
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{tmp_path}/file/array/"}}
    with pytest.raises(ValueError, match="Not a directory") as raised:
        tensorstore.open(spec, create=True, dtype="float32", shape=[4]).result()
    real = str(raised.value)
    code = f"os_error_code='{errno.ENOTDIR}'"
    assert code in real

    def error(number, status="FAILED_PRECONDITION"):
        said = real.replace(code, f"os_error_code='{number}'").replace("FAILED_PRECONDITION", status)
        return ValueError(said)

    return error


def test_the_number_of_the_system_is_read_out_of_tensorstore_s_text(of_tensorstore):
    assert os_error_number(of_tensorstore(errno.ENOTDIR)) == errno.ENOTDIR
    assert os_error_number(OSError(errno.ESTALE, "stale")) == errno.ESTALE
    assert os_error_number(ValueError("of something else")) is None


def test_a_stale_handle_is_temporary_whoever_met_it_and_a_full_disk_is_not(of_tensorstore):
    for number, expected in ((errno.ESTALE, True), (errno.EIO, True), (errno.ENOSPC, False)):
        assert is_temporary(OSError(number, "")) is expected
        assert is_temporary(of_tensorstore(number)) is expected
    assert is_temporary(TimeoutError("the save took too long"))
    assert not is_temporary(ValueError("of something else"))


def test_statuses_of_files_are_not_taken_for_lost_processes_or_full_devices(of_tensorstore):
    assert is_of_storage(of_tensorstore(errno.ETIMEDOUT, "DEADLINE_EXCEEDED"))
    assert is_of_storage(of_tensorstore(errno.ENETUNREACH, "UNAVAILABLE"))
    assert is_of_storage(of_tensorstore(errno.ENOSPC, "RESOURCE_EXHAUSTED"))


@pytest.mark.parametrize(("number", "kind"), [(errno.ESTALE, TemporaryError), (errno.EACCES, UserError)])
def test_reading_says_whether_to_start_again(of_tensorstore, number, kind, tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} cannot be read") as raised, readable(tmp_path):
        raise of_tensorstore(number)
    assert type(raised.value) is kind


def timed_out(said, cause=None):
    error = TimeoutError(said)
    error.__cause__ = cause
    return error


def test_a_barrier_that_fails_is_another_process_that_is_gone():
    """Orbax raises these while it saves."""
    of_jax = jax.errors.JaxRuntimeError("UNAVAILABLE: the following tasks are unhealthy")
    barrier = timed_out("Timed out while waiting for async_write_complete barrier.", of_jax)
    for error in (of_jax, barrier, timed_out("of a save", of_jax), RuntimeError("Barrier timed out")):
        assert is_of_lost_process(error)
        assert not is_of_storage(error)
    for error in (timed_out("of a save"), timed_out("of a save", OSError(errno.EIO, "")), OSError("barrier")):
        assert not is_of_lost_process(error)
    assert not is_of_lost_process(TimeoutError(errno.ETIMEDOUT, "Connection timed out: barrier.json"))


@pytest.mark.parametrize(
    "said",
    [
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes.",
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm.\nmore",
        "RESOURCE_EXHAUSTED: Error allocating device buffer: Attempting to allocate 1.50G.",
    ],
)
def test_a_full_device_is_explained(said):
    error = jax.errors.JaxRuntimeError(said)
    sentence = explain_full_device(error)
    assert sentence is not None
    assert said.splitlines()[0] in sentence
    for remedy in (
        "--train.num-accumulation-steps",
        "--train.remat",
        "--train.clips-per-pass",
        "--train.batch-size",
        "`clipbert estimate`",
        "--batch-size",
    ):
        assert remedy in sentence
    assert not is_of_storage(error)
    assert "\n" not in sentence


def test_other_errors_are_not_explained_so():
    assert explain_full_device(jax.errors.JaxRuntimeError("INTERNAL: no memory of that")) is None
    assert explain_full_device(ValueError("RESOURCE_EXHAUSTED: Out of memory")) is None
