"""Stands before all pages: refuses other sites and too large requests, and sets the headers of every answer.

There is no login. Only this machine can connect, and pages of other sites, which a browser on this machine
may have open, are refused:

  - by the Host header (Starlette's `TrustedHostMiddleware`, in `app`), so that no foreign name can be pointed
    at this address (DNS rebinding);
  - by Origin and Sec-Fetch-Site, so that no foreign page can send forms, or embed what is shown here.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from data_pipelines.terminal_text import printable
from experiments.serve.limits import Limits
from experiments.serve.refusal import RequestRefused
from experiments.serve.uploads import too_large

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]
Answer = Callable[[Scope, RequestRefused], App]
"""Makes the page, or the JSON, of a refusal."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "style-src 'unsafe-inline'; frame-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Bars take their length from `style`, hence unsafe-inline; every other style and script is our own."""

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


class Guard:
    """An ASGI app around another."""

    def __init__(self, app: App, *, limits: Limits, answer: Answer) -> None:
        self._app, self._limits, self._answer = app, limits, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, receive, send, self._limits)
        try:
            if not is_from_here(scope["method"], Headers(scope=scope)):
                raise RequestRefused(403, "A page of another site sent this: it is refused.")
            await self._app(scope, exchange.receive, exchange.send)
        except RequestRefused as refusal:
            await self._refuse(scope, exchange, refusal)
        except ClientDisconnect:
            pass
        except Exception:
            traceback.print_exc(file=sys.stderr)
            refusal = RequestRefused(500, "The server could not do this; its log says why.")
            await self._refuse(scope, exchange, refusal)
        finally:
            exchange.log()

    async def _refuse(self, scope: Scope, exchange: _Exchange, refusal: RequestRefused) -> None:
        if exchange.status is None:
            await self._answer(scope, refusal)(scope, exchange.receive, exchange.send)


def is_from_here(method: str, headers: Mapping[str, str]) -> bool:
    """Return whether no foreign page is behind a request, as far as browsers say; programs say nothing.

    Other sites may link here. A form sends `Origin: null` under our referrer policy, which says nothing: then
    Sec-Fetch-Site must say that it is ours.
    """
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if site not in (None, "same-origin", "none"):
        is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        return method in ("GET", "HEAD") and is_link
    if origin == "null":
        return site == "same-origin"
    return origin is None or origin.lower() == f"http://{headers.get('host', '').lower()}"


class _Exchange:
    """A request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.status: int | None = None
        self._scope, self._receive, self._send = scope, receive, send
        declared = Headers(scope=scope).get("content-length", "0")
        self._declared = int(declared) if declared.isdigit() else 0
        self._upload_bytes = limits.upload_bytes if scope["path"] in _MAY_UPLOAD else 0
        self._most = limits.body_bytes(may_upload=scope["path"] in _MAY_UPLOAD)
        self._begin = time.monotonic()
        self._num_bytes = 0
        self._is_complete = False

    async def receive(self) -> Message:
        """Return the next part of the request.

        Raises:
          RequestRefused: more comes in than is allowed.
        """
        if self._declared > self._most:
            raise self._too_large()
        message = await self._receive()
        self._num_bytes += len(message.get("body", b""))
        self._is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        if self._num_bytes > self._most:
            raise self._too_large()
        return message

    def _too_large(self) -> RequestRefused:
        if self._upload_bytes:
            return too_large(self._upload_bytes)
        return RequestRefused(413, f"The request has more than {self._most >> 10} KB.")

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
        """Write a line about the request, without the texts in its address."""
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
