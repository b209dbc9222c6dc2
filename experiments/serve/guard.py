"""Stands before all pages: who may ask, how much may come in, and what browsers are told about every answer.

There is no login. What protects the videos is that only this machine can connect, and that pages of other
sites, which a browser on this machine may have open, are refused:

  - by the Host header, so that no foreign name can be pointed at this address (DNS rebinding);
  - by Origin and Sec-Fetch-Site, so that no foreign page can send forms, or embed what is shown here.
"""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect

from data_pipelines.terminal_text import printable
from experiments.serve.limits import BODY_SECONDS, CHUNK_SECONDS, Limits
from experiments.serve.refusal import RequestRefused
from experiments.serve.uploads import too_large

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
Answer = Callable[[Scope, RequestRefused], App]
"""Makes the page, or the JSON, that says a refusal."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Bars are as long as their `style` says, hence unsafe-inline; every other style and script is ours."""

_HEADERS = {
    b"content-security-policy": PAGE_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
}
_MAY_UPLOAD = ("/ask", "/probe", "/api/ask")
_DRAIN_SECONDS = 2.0
"""For a client that sends too much to hear of it: one that is cut off at once sees a broken connection."""


class Guard:
    """An ASGI app around another."""

    def __init__(self, app: App, *, hosts: frozenset[str], limits: Limits, answer: Answer) -> None:
        self._app, self._hosts, self._limits, self._answer = app, hosts, limits, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limits)
        try:
            self._check(scope)
            await self._app(scope, exchange.receive, exchange.send)
        except RequestRefused as refusal:
            await self._refuse(scope, exchange, refusal)
        except ClientDisconnect:
            pass  # nobody hears an answer
        except Exception:
            traceback.print_exc(file=sys.stderr)
            sentence = "The server could not do this, and its log says why."
            await self._refuse(scope, exchange, RequestRefused(500, sentence))
        finally:
            exchange.log()

    async def _refuse(self, scope: Scope, exchange: _Exchange, refusal: RequestRefused) -> None:
        if exchange.status is None:
            await exchange.drain()
            await self._answer(scope, refusal)(scope, exchange.receive, exchange.send)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if sum(name == b"host" for name, _ in scope["headers"]) != 1 or not self._is_ours(headers["host"]):
            raise RequestRefused(
                421, "This server has another name: use the address that it printed when it began."
            )
        if not is_from_here(scope["method"], headers):
            raise RequestRefused(403, "This was sent by a page of another site, and is refused.")

    def _is_ours(self, host: str) -> bool:
        return host.lower() in self._hosts


def is_from_here(method: str, headers: Mapping[str, str]) -> bool:
    """Tell whether no foreign page is behind a request, as far as browsers say; programs say nothing.

    Links from elsewhere may lead here. A form says `Origin: null` under our referrer policy, which is as good
    as nothing: then Sec-Fetch-Site must say that it is ours.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site not in (None, "same-origin", "none"):
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return method in ("GET", "HEAD") and is_link
    if origin == "null":
        return site == "same-origin"
    return origin is None or origin.lower() == f"http://{headers['host'].lower()}"


class _Exchange:
    """A request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.status: int | None = None
        self._scope, self._receive, self._send = scope, receive, send
        self._most = limits.body_bytes(may_upload=scope["path"] in _MAY_UPLOAD)
        self._upload_bytes = limits.upload_bytes if scope["path"] in _MAY_UPLOAD else 0
        self._begin = time.monotonic()
        self._num_bytes = 0
        self._is_complete = False

    async def receive(self) -> Message:
        """Return the next part of the request.

        Raises:
          RequestRefused: it is too large, or does not come.
        """
        if self._is_complete:
            return await self._receive()
        if self._declared > self._most:
            raise self._too_large()
        try:
            message = await asyncio.wait_for(self._receive(), CHUNK_SECONDS)
        except TimeoutError:
            raise RequestRefused(408, f"Nothing came for {CHUNK_SECONDS:g} s.") from None
        self._note(message)
        if self._num_bytes > self._most:
            raise self._too_large()
        if time.monotonic() - self._begin > BODY_SECONDS:
            raise RequestRefused(408, "The request took too long to come.")
        return message

    def _note(self, message: Message) -> None:
        self._num_bytes += len(message.get("body", b""))
        self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)

    @property
    def _declared(self) -> int:
        """What the client says that it will send."""
        text = dict(self._scope["headers"]).get(b"content-length", b"0")
        return int(text) if text.isdigit() else 0

    def _too_large(self) -> RequestRefused:
        if self._upload_bytes:
            return too_large(self._upload_bytes)
        return RequestRefused(413, f"The request has more than {self._most >> 10} KB.")

    async def drain(self) -> None:
        """Throw away what still comes, for a moment, so that the answer can be heard."""
        if self._scope["method"] in ("GET", "HEAD"):
            return
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while not self._is_complete:
                    self._note(await self._receive())
        except TimeoutError:
            return

    async def send(self, message: Message) -> None:
        """Pass the answer on, with the headers that all have."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name.lower() for name, _ in message.get("headers", ())}
            more = [(name, value) for name, value in _HEADERS.items() if name not in own]
            if not self._is_complete and self._scope["method"] not in ("GET", "HEAD"):
                more.append((b"connection", b"close"))
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await self._send(message)

    def log(self) -> None:
        """Write a line about it, without what was asked."""
        milliseconds = 1000 * (time.monotonic() - self._begin)
        status = self.status or 499  # the client has left
        phrase = HTTPStatus(status).phrase if self.status else "gone"
        path = printable(self._scope["path"])[:200]
        print(
            f"{time.strftime('%H:%M:%S')} {self._scope['method']} {path} {status} {phrase} "
            f"{milliseconds:.0f} ms",
            file=sys.stderr,
            flush=True,
        )
