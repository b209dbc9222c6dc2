"""Reads and checks requests: forms, forms with a video, and JSON.

`guard` has limited how many bytes come in; the routes take the checked `Form`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from experiments.serve.limits import MAX_BODY_BYTES, MAX_CHARACTERS, MAX_FIELDS, MAX_TEXTS
from experiments.serve.refusal import RequestRefused
from experiments.serve.uploads import KnownVideo, Uploads

if TYPE_CHECKING:
    from starlette.requests import Request

_MAX_DIGITS = 9
_SINGLE = ("answer", "video", "num_clips", "top")
_KNOWN = {*_SINGLE, "texts", "options", "file"}

Fields = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """The values of a request: lists in `texts` and `options`, single values in the others."""

    texts: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    answer: str = ""
    """Answer to probe; default: the model's own."""
    video_id: str = ""
    upload: KnownVideo | None = None
    num_clips: str = ""
    top: str = ""

    def number(self, name: str, default: int, most: int) -> int:
        """Return a field as a number from 1 to `most`.

        Raises:
          RequestRefused: the field is something else.
        """
        text = getattr(self, name) or str(default)
        is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
        if not (is_number and 1 <= (number := int(text)) <= most):
            raise RequestRefused(422, f"{name} must be a number from 1 to {most}, not {text[:20]}.")
        return number


async def read_form(request: Request, uploads: Uploads) -> Form:
    """Return the values of a request; the caller must `drop` an upload that is not used.

    Raises:
      RequestRefused: the request is not understood, or asks too much.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "application/json":
        return _checked(_json_fields(await request.body()))
    if kind == "application/x-www-form-urlencoded":
        return _checked(_form_fields(await _parsed(request)))
    if kind == "multipart/form-data":
        with uploads.coming_in():
            return await _with_upload(await _parsed(request), uploads)
    raise RequestRefused(415, "Send application/json or a form; docs/serve.md describes the fields.")


async def _parsed(request: Request) -> FormData:
    return await request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_BODY_BYTES)


async def _with_upload(form: FormData, uploads: Uploads) -> Form:
    try:
        checked = _checked(_form_fields(form))
        files = [value for value in form.values() if isinstance(value, UploadFile) and value.filename]
        if not files:
            return checked
        upload = await run_in_threadpool(uploads.keep, str(files[0].filename), files[0].file)
        return dataclasses.replace(checked, upload=upload)
    finally:
        await form.close()  # deletes the temporary file


def _form_fields(form: FormData) -> Fields:
    """Return the texts of a form; people write texts and options one per line."""
    fields: dict[str, list[str]] = {}
    for name, value in form.multi_items():
        if isinstance(value, str) and name != "name":  # that one only finds videos
            fields.setdefault(name, []).append(value)
    for name in fields.keys() & {"texts", "options"}:
        fields[name] = [line for value in fields[name] for line in value.splitlines() if line.strip()]
    return fields


def _json_fields(body: bytes) -> Fields:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestRefused(400, "The body is not JSON in UTF-8.") from error
    if not isinstance(values, dict):
        raise RequestRefused(400, 'The body must be a JSON object, such as {"texts": ["a man cooks"]}.')
    return {name: _strings(name, value) for name, value in values.items()}


def _strings(name: str, value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int) and not isinstance(one, bool) for one in values):
        raise RequestRefused(422, f"{name[:40]!a} must be a text, a number or a list of texts.")
    return [str(one) for one in values]


def _checked(fields: Fields) -> Form:
    if unknown := fields.keys() - _KNOWN:
        raise RequestRefused(
            422, f"There is no field {min(unknown)[:40]!a}, only {', '.join(sorted(_KNOWN))}."
        )
    texts, options = (tuple(text.strip() for text in fields.get(name, ())) for name in ("texts", "options"))
    if several := [name for name in _SINGLE if len(fields.get(name, [""])) != 1]:
        raise RequestRefused(422, f"{several[0]!a} must be a single value.")
    values = {name: fields.get(name, [""])[0].strip() for name in _SINGLE}
    _check_lengths(texts, "texts")
    _check_lengths(options, "options")
    _check_lengths([*values.values()], "values")
    return Form(
        texts=texts,
        options=options,
        answer=values["answer"],
        video_id=values["video"],
        num_clips=values["num_clips"],
        top=values["top"],
    )


def _check_lengths(texts: Sequence[str], what: str) -> None:
    if len(texts) > MAX_TEXTS:
        raise RequestRefused(422, f"There are {len(texts)} {what}: give {MAX_TEXTS} at most.")
    if any(len(text) > MAX_CHARACTERS for text in texts):
        raise RequestRefused(422, f"A text has more than {MAX_CHARACTERS:,} characters: shorten it.")
    if any("\0" in text or not _is_unicode(text) for text in texts):
        raise RequestRefused(422, "A text holds characters that are not valid Unicode.")


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)
