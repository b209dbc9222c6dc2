"""Where the server listens, clients that leave early, and how the server ends."""

from __future__ import annotations

import contextlib
import signal
import socket

import pytest

from experiments.commands.serve import end_on_signals, host_names, listen
from tests.experiments.conftest import fails

from .serving import BOUNDARY, multipart


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "no.invalid"])
def test_only_this_machine_can_reach_the_server(host, capsys):
    assert f"--host {host}" in fails(["serve", "nowhere", "--host", host], capsys)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2"])
def test_addresses_of_this_machine_are_taken(host):
    with listen(host, 0) as listening:
        assert listening.getsockname()[1] > 0
    assert host in host_names(host)


@contextlib.contextmanager
def connected(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        yield client


def test_a_client_that_leaves_is_no_fault(served, capsys):
    before = set(served.site.private.iterdir())
    form = multipart({"texts": "a"}, ("a.mp4", b"\0\0\0\x18ftypmp42" + bytes(3000)))
    with connected(served) as client:
        head = (
            f"POST /ask HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Length: 9000\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        )
        client.sendall(head.encode() + form[:2000])
    log = ""
    while "POST /ask" not in log:
        served.get("/favicon.ico")  # gives the server its turn
        log += capsys.readouterr().err
    assert "POST /ask 499 gone" in log
    assert "Traceback" not in log
    assert set(served.site.private.iterdir()) == before


@pytest.fixture
def handlers():
    """Restore what a signal does."""
    signals = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(one) for one in signals]
    yield
    for one, handler in zip(signals, before, strict=True):
        signal.signal(one, handler)


@pytest.mark.parametrize("one", [signal.SIGTERM, signal.SIGHUP])
def test_a_closed_terminal_ends_the_server_as_ctrl_c_does(handlers, one):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    end_on_signals()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(one)


def test_nohup_is_heeded(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end_on_signals()
    signal.raise_signal(signal.SIGHUP)
