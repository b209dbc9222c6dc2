from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipbert_jax.errors import UserError
from data_pipelines.decoding.video import UnreadableVideo
from data_pipelines.decoding.work import WORK
from data_pipelines.workers import isolation
from data_pipelines.workers.isolation import Failure, Isolated, TimeLimit, file_time_limit

REPOSITORY = Path(__file__).parents[3]


# Functions that the workers import.


def act(item: str) -> str:
    """Do what the item says."""
    kind, _, argument = item.partition(" ")
    if kind == "crash":
        ctypes.string_at(0)
    elif kind == "abort":
        os.abort()
    elif kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "kill-once":
        with Path(argument).open("a") as file:
            file.write("x")
        if Path(argument).stat().st_size == 1:
            os.kill(os.getpid(), signal.SIGTERM)
    elif kind == "exit":
        os._exit(3)
    elif kind == "sleep":
        time.sleep(float(argument))
    elif kind == "decode":  # 20 frames of so many pixels, 0.1 s each; one that is stuck after them waits
        pixels, _, last = argument.partition(" ")
        WORK.expect(20 * int(float(pixels)))
        for _ in range(20):
            time.sleep(0.1)
            WORK.advance(int(float(pixels)))
        time.sleep(float(last or 0))
    elif kind == "eat":
        return str(len(bytearray(int(float(argument) * 2**30))))
    elif kind == "print":
        os.write(1, b"chatter")
        os.write(2, b"chatter")
    return item


def fail(item: str) -> str:
    if item == "unreadable":
        raise UnreadableVideo("a.mp4", "it is empty")
    if item == "chained":
        try:
            raise MemoryError
        except MemoryError as error:
            raise UserError("something else") from error
    raise KeyError(item)


def process_id(item: int) -> int:
    return os.getpid()


def large(item: int) -> bytes:
    return bytes([item]) * 20_000_000


_hoard: list[bytearray] = []


def hoard(item: int) -> int:
    """Leak, as decoders do: four times is too much for one process."""
    _hoard.append(bytearray(150 * 2**20))
    return len(_hoard)


def unpicklable(item: int) -> Iterator[int]:
    return (number for number in range(item))


def loaded_modules(item: int) -> list[str]:
    from data_pipelines.decoding.examine import examine_video  # noqa: F401, what a worker typically needs

    return [name for name in ("jax", "tensorflow_datasets", "grain", "experiments") if name in sys.modules]


def run(items: list[str], *, num_workers: int = 2, time_limit: float = 20.0) -> list[str | Failure]:
    with Isolated(num_workers, memory_limit_gib=0.5) as isolated:
        return list(isolated.map(act, items, time_limit=time_limit))


def test_results_come_in_order_whichever_is_ready_first() -> None:
    items = ["sleep 0.4", "a", "b", "c", "sleep 0.1", "d"]
    assert run(items) == items


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_crash_costs_only_its_own_item(num_workers: int) -> None:
    results = run(["a", "crash", "b", "abort", "c", "kill", "d", "exit", "e"], num_workers=num_workers)
    assert [r for r in results if isinstance(r, str)] == ["a", "b", "c", "d", "e"]
    assert [r.reason for r in results if isinstance(r, Failure)] == [
        "the decoder crashed (signal 11)",
        "the decoder crashed (signal 6)",
        "its process was killed twice (signal 9), perhaps because the machine ran out of memory",
        "the decoder ended its process (exit code 3)",
    ]


def test_an_item_whose_worker_is_killed_from_outside_is_tried_once_more(tmp_path: Path) -> None:
    item = f"kill-once {tmp_path / 'marks'}"
    assert run([item], num_workers=1) == [item]
    failures = [r for r in run(["crash", "kill", "sleep 9"], time_limit=1.0) if isinstance(r, Failure)]
    assert [failure.may_pass for failure in failures] == [False, True, True]


def test_what_takes_too_long_is_ended_and_others_are_not() -> None:
    begin = time.monotonic()
    results = run(["a", "sleep 60", "b", "c", "d", "e"], time_limit=0.7)
    assert results == ["a", Failure("took longer than 0.7 s", may_pass=True), "b", "c", "d", "e"]
    assert time.monotonic() - begin < 50


def test_each_item_has_its_own_time_limit() -> None:
    with Isolated(1) as isolated:
        limits = {"sleep 0.4": TimeLimit(20.0), "sleep 0.41": TimeLimit(0.1)}
        results = isolated.map(act, list(limits), time_limit=limits.__getitem__)
        assert list(results) == ["sleep 0.4", Failure("took longer than 0.1 s", may_pass=True)]


def test_memory_is_limited_and_the_limit_is_named() -> None:
    results = run(["eat 0.1", "eat 2", "b", "eat 0.1"])
    assert results == ["107374182", Failure("needed more than 0.5 GiB"), "b", "107374182"]


def test_an_item_that_does_not_fit_through_the_pipe_costs_only_itself() -> None:
    with Isolated(1, memory_limit_gib=0.5) as isolated:
        results = list(isolated.map(len, [b"a", bytes(600 * 2**20), b"bc"], time_limit=20.0))
    assert results == [1, Failure("needed more than 0.5 GiB"), 2]


def test_an_item_is_not_blamed_for_the_memory_that_earlier_ones_kept() -> None:
    with Isolated(1, memory_limit_gib=0.55) as isolated:
        results = list(isolated.map(hoard, range(7), time_limit=20.0))
    assert results == [1, 2, 3, 1, 2, 3, 1]


def test_memory_that_ran_out_is_seen_behind_other_exceptions() -> None:
    with Isolated(1) as isolated:
        results = list(isolated.map(fail, ["chained"], time_limit=20.0))
    assert results == [Failure("needed more than 1.5 GiB")]


def test_exceptions_of_the_function_are_raised_in_turn_with_the_traceback_of_the_worker() -> None:
    with Isolated(1) as isolated:
        with pytest.raises(UnreadableVideo, match=r"cannot read the video a.mp4: it is empty"):
            list(isolated.map(fail, ["unreadable"], time_limit=20.0))
        with pytest.raises(KeyError) as caught:
            list(isolated.map(fail, ["bug"], time_limit=20.0))
        assert "raise KeyError(item)" in caught.value.__notes__[0]
        assert list(isolated.map(act, ["a"], time_limit=20.0)) == ["a"]


def test_a_result_that_cannot_be_pickled_is_a_programming_error() -> None:
    with Isolated(1) as isolated, pytest.raises(RuntimeError, match="cannot pickle 'generator' object"):
        list(isolated.map(unpicklable, [1], time_limit=20.0))


def test_a_function_that_cannot_be_imported_is_a_programming_error() -> None:
    with Isolated(1) as isolated, pytest.raises((AttributeError, RuntimeError)):
        list(isolated.map(lambda item: item, [1], time_limit=20.0))


def test_few_items_are_taken_ahead_and_large_results_pass() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    with Isolated(2) as isolated:
        for number, result in enumerate(isolated.map(large, items(), time_limit=20.0)):
            assert isinstance(result, bytes)
            assert (len(result), result[0]) == (20_000_000, number)
            assert len(taken) <= number + 5


def test_leaving_early_ends_the_workers_and_the_next_map_starts_anew() -> None:
    with Isolated(2) as isolated:
        results = isolated.map(process_id, range(1000), time_limit=20.0)
        process_ids = {next(results) for _ in range(8)}
        results.close()  # type: ignore[attr-defined]
        more = set(isolated.map(process_id, range(4), time_limit=20.0))
    for process in process_ids | more:
        assert isinstance(process, int)
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_workers_are_light_and_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with Isolated(1) as isolated:
        assert list(isolated.map(loaded_modules, [1], time_limit=60.0)) == [[]]
        list(isolated.map(act, ["print"], time_limit=20.0))
    assert capfd.readouterr() == ("", "")


PARENT = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have background jobs ignore it
from data_pipelines.workers.isolation import Isolated
from {module} import process_id, act
with Isolated(2) as isolated:
    print(*set(isolated.map(process_id, range(20), time_limit=20.0)), flush=True)
    list(isolated.map(act, ["sleep 60"] * 4, time_limit=100.0))
"""


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_their_parent(signal_number: int) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(module=__name__)], cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert parent.stdout is not None
    process_ids = [int(word) for word in parent.stdout.readline().split()]
    assert process_ids
    parent.send_signal(signal_number)
    parent.wait(20)
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(_is_alive(process) for process in process_ids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_large_files_may_take_longer_and_a_user_may_set_the_limit() -> None:
    assert file_time_limit(1000) == TimeLimit(20.0, follows_work=True)
    assert file_time_limit(100 * 10**6) == TimeLimit(1000.0, follows_work=True)
    assert file_time_limit(1000, 7.5) == TimeLimit(7.5)


@pytest.mark.parametrize(
    ("item", "limit", "expected"),
    [
        ("decode 1e6", TimeLimit(1.2, follows_work=True), "decode 1e6"),
        ("decode 10", TimeLimit(1.2, follows_work=True), "took longer than 1.2 s; allow more with"),
        ("decode 1e6", TimeLimit(1.2), "took longer than 1.2 s"),
        ("decode 1e9 60", TimeLimit(1.2, follows_work=True), "its decoder is stuck: no frame came for 1.5 s"),
    ],
    ids=["many pixels", "few pixels", "a limit by the user", "stuck"],
)
def test_a_slow_file_is_told_from_a_stuck_one(item, limit, expected, monkeypatch) -> None:
    monkeypatch.setattr(isolation, "_STUCK_SECONDS", 1.5)
    with Isolated(1) as isolated:
        (result,) = isolated.map(act, [item], time_limit=lambda item: limit)
    assert (result.reason if isinstance(result, Failure) else result).startswith(expected)
