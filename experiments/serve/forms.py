"""Takes requests apart: forms, forms with a video, and JSON; then checks what they ask.

What comes in is counted while it comes: a video goes straight to its file, and nothing is held that is larger
than allowed. Before: `guard`; after: the routes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from experiments.serve.limits import MAX_BODY_BYTES, MAX_CHARACTERS, MAX_NAME_CHARACTERS, MAX_TEXTS
from experiments.serve.refusal import RequestRefused
from experiments.serve.uploads import Incoming, KnownVideo, Uploads

if TYPE_CHECKING:
    from starlette.requests import Request

_MAX_FIELDS = 64
_MAX_DIGITS = 9
_SINGLE = ("answer", "video", "num_clips", "top")

Fields = dict[str, list[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """What a request holds: `texts` and `options` are lists, the others single values."""

    texts: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    answer: str = ""
    """What a probe looks at, by default what the model answers."""
    video_id: str = ""
    upload: KnownVideo | None = None
    num_clips: str = ""
    top: str = ""

    def number(self, name: str, default: int, most: int) -> int:
        """Return a number from 1 on.

        Raises:
          RequestRefused: it is none, or too large.
        """
        text = getattr(self, name) or str(default)
        is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
        if not (is_number and 1 <= (number := int(text)) <= most):
            raise RequestRefused(422, f"{name} is a number from 1 to {most}, not {text[:20]}.")
        return number


async def read_form(request: Request, uploads: Uploads) -> Form:
    """Return what a request holds; whoever takes an upload must `drop` it if nothing comes of it.

    Raises:
      RequestRefused: it cannot be understood, or asks too much.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data" and options.get(b"boundary"):
        return await _read_multipart(request, options[b"boundary"], uploads)
    body = await _read_body(request)
    if kind == b"application/json":
        return _checked(_json_fields(body))
    if kind == b"application/x-www-form-urlencoded":
        return _checked(_urlencoded_fields(body))
    raise RequestRefused(415, "A request is application/json, or a form; docs/serve.md says what is in it.")


async def _read_body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise _too_much()
    return bytes(body)


def _urlencoded_fields(body: bytes) -> Fields:
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise RequestRefused(
            400, "The form cannot be read: it is no UTF-8, or has too many fields."
        ) from error
    return _by_lines(fields)


def _json_fields(body: bytes) -> Fields:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(400, "The body is no JSON in UTF-8.") from error
    if not isinstance(values, dict):
        raise RequestRefused(400, 'The body is a JSON object, such as {"texts": ["a man cooks"]}.')
    return {name: _strings(name, value) for name, value in values.items()}


def _strings(name: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in values):
        raise RequestRefused(422, f"{name[:40]!a} holds text, numbers or a list of texts.")
    return [str(one) for one in values]


def _by_lines(fields: Fields) -> Fields:
    """Return texts and options one a line, as people write them into a form."""
    lists = {
        name: [line for value in fields.get(name, ()) for line in value.splitlines() if line.strip()]
        for name in ("texts", "options")
    }
    return {name: values for name, values in fields.items() if name != "name"} | lists  # that finds videos


def _checked(fields: Fields, upload: KnownVideo | None = None) -> Form:
    known = {"texts", "options", "answer", "video", "num_clips", "top", "file"}
    if unknown := fields.keys() - known:
        raise RequestRefused(422, f"{min(unknown)[:40]!a} is unknown; there are {', '.join(sorted(known))}.")
    texts, options = (tuple(text.strip() for text in fields.get(name, ())) for name in ("texts", "options"))
    if several := [name for name in _SINGLE if len(fields.get(name, [""])) != 1]:
        raise RequestRefused(422, f"{several[0]!a} holds one value.")
    values = {name: fields.get(name, [""])[0].strip() for name in _SINGLE}
    _check_lengths(texts, "texts")
    _check_lengths(options, "options")
    _check_lengths([*values.values()], "values")
    return Form(texts=texts, options=options, upload=upload, video_id=values.pop("video"), **values)


def _check_lengths(texts: Sequence[str], what: str) -> None:
    if len(texts) > MAX_TEXTS:
        raise RequestRefused(422, f"There are {len(texts)} {what}: give {MAX_TEXTS} at most.")
    if any(len(text) > MAX_CHARACTERS for text in texts):
        raise RequestRefused(422, f"A text has more than {MAX_CHARACTERS:,} characters: shorten it.")
    if any("\0" in text or not _is_unicode(text) for text in texts):
        raise RequestRefused(422, "A text holds characters that are none.")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _too_much() -> RequestRefused:
    return RequestRefused(413, f"The request has more than {MAX_BODY_BYTES >> 10} KB beside a video.")


# ---- Forms with a video -----------------------------------------------------------------------------------


async def _read_multipart(request: Request, boundary: bytes, uploads: Uploads) -> Form:
    parts = _Parts(boundary, uploads)
    try:
        async for chunk in request.stream():
            parts.feed(chunk)
        parts.end()
        upload = parts.incoming and uploads.keep(parts.incoming)
    except BaseException:  # the client has gone, too
        if parts.incoming is not None:
            uploads.abandon(parts.incoming)
        raise
    try:
        return _checked(_by_lines(parts.fields), upload)
    except RequestRefused:
        if upload is not None:
            uploads.drop(upload)
        raise


class _Parts:
    """The parts of a form while it comes in: texts are kept here, the bytes of a video are not."""

    def __init__(self, boundary: bytes, uploads: Uploads) -> None:
        self.fields: Fields = {}
        self.incoming: Incoming | None = None
        self._uploads = uploads
        self._name, self._value = b"", bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._field = ""
        """Its name; empty for a part that holds a video, or nothing."""
        self._is_video = False
        self._num_bytes = self._num_parts = 0
        self._has_ended = False
        names = ("part_begin", "part_data", "part_end", "end")
        names += ("header_field", "header_value", "header_end", "headers_finished")
        callbacks: Any = {f"on_{name}": getattr(self, f"_{name}") for name in names}
        try:
            self._parser = MultipartParser(boundary, callbacks, max_header_count=8, max_header_size=2048)
        except (MultipartParseError, ValueError) as error:
            raise _no_form() from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except (MultipartParseError, ValueError) as error:
            raise _no_form() from error

    def end(self) -> None:
        if not self._has_ended:
            raise _no_form()

    def _part_begin(self) -> None:
        self._headers, self._field, self._is_video = {}, "", False
        self._name, self._value = b"", bytearray()
        self._num_parts += 1
        if self._num_parts > _MAX_FIELDS:
            raise _too_much()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = bytes(self._value)
        self._name, self._value = b"", bytearray()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        file_name = options.get(b"filename")
        if file_name is None:
            self._field = options.get(b"name", b"").decode(errors="replace")[:MAX_NAME_CHARACTERS]
        elif file_name:  # an empty one: no file was chosen
            if self.incoming is not None:
                raise RequestRefused(422, "Send one video at a time.")
            self.incoming = self._uploads.begin(file_name.decode(errors="replace"))
            self._is_video = True

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_video and self.incoming is not None:
            self.incoming.write(data[start:end])
            return
        self._num_bytes += end - start
        if self._num_bytes > MAX_BODY_BYTES:
            raise _too_much()
        self._value += data[start:end]

    def _part_end(self) -> None:
        if not self._field:
            return
        try:
            text = self._value.decode()
        except UnicodeDecodeError as error:
            raise _no_form() from error
        self.fields.setdefault(self._field, []).append(text)

    def _end(self) -> None:
        self._has_ended = True


def _no_form() -> RequestRefused:
    return RequestRefused(400, "The form cannot be read: it is cut off, or no form.")
