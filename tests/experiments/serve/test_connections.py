"""Clients that send nothing, leave early, or are too many; and how the server ends."""

from __future__ import annotations

import contextlib
import signal
import socket
import time

import pytest

from experiments.commands.serve import _end_as_by_ctrl_c
from experiments.serve import connections, guard

from .serving import BOUNDARY, multipart


@contextlib.contextmanager
def connected(served):
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as client:
        yield client


def is_closed(client):
    with contextlib.suppress(ConnectionResetError):
        return client.recv(1) == b""
    return True


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nHost: 127"])
def test_a_connection_without_a_request_is_closed(served, monkeypatch, start):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    with connected(served) as client:
        client.sendall(start)
        begin = time.monotonic()
        assert is_closed(client)
        assert 0.1 < time.monotonic() - begin < 5


def test_bytes_one_by_one_prolong_nothing(served, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    begin = time.monotonic()
    with connected(served) as client, contextlib.suppress(OSError):
        while time.monotonic() - begin < 8:
            client.sendall(b"G")
            time.sleep(0.05)
    assert time.monotonic() - begin < 5


def test_a_request_that_takes_longer_than_its_head_may_is_answered(served, monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    head = f"GET /favicon.ico HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
    body = b'{"texts": []}'
    post = (
        f"POST /api/ask HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with connected(served) as client:
        client.sendall(head)
        assert client.recv(9999).startswith(b"HTTP/1.1 204")
        client.sendall(post.encode())  # on the same connection
        time.sleep(0.6)
        client.sendall(body)
        assert client.recv(9999).startswith(b"HTTP/1.1 422")


def test_a_client_that_sends_nothing_is_let_go(served, monkeypatch):
    headers = {"Content-Type": "application/json", "Content-Length": "10"}
    monkeypatch.setattr(guard, "CHUNK_SECONDS", 0.2)
    monkeypatch.setattr(guard, "_DRAIN_SECONDS", 0.1)
    assert served.ask("POST", "/api/ask", headers=headers).status == 408


def test_connections_are_bounded(served, monkeypatch):
    monkeypatch.setattr(connections, "MAX_OPEN_CONNECTIONS", 3)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(served)) for _ in range(5)]
        assert is_closed(clients[-1])
        clients[0].settimeout(0.2)
        with pytest.raises(TimeoutError):
            clients[0].recv(1)


def test_a_client_that_leaves_is_no_fault(served, capsys):
    before = set(served.site.private.iterdir())
    form = multipart({"texts": "a"}, ("a.mp4", b"\0\0\0\x18ftypmp42" + bytes(3000)))
    with connected(served) as client:
        head = (
            f"POST /ask HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nContent-Length: 9000\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        )
        client.sendall(head.encode() + form[:2000])
        time.sleep(0.2)
    log, end = "", time.monotonic() + 10
    while "POST /ask" not in log and time.monotonic() < end:
        time.sleep(0.05)
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
    _end_as_by_ctrl_c()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(one)


def test_nohup_is_heeded(handlers):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _end_as_by_ctrl_c()
    signal.raise_signal(signal.SIGHUP)
