"""A server in a thread of the tests, and a plain client that sends what no browser would."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.commands.serve import host_names, listen
from experiments.runs.load_run import Run
from experiments.search.options import IndexOptions
from experiments.serve.app import make_app, make_server
from experiments.serve.limits import Limits
from experiments.serve.site import Site

UPLOAD_BYTES = 200_000
BOUNDARY = "----a-boundary"


def crash(item: object) -> None:
    """Stand in for a decoder that a file has got the better of."""
    os.abort()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the server said."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclasses.dataclass(frozen=True)
class Served:
    """A server that runs."""

    site: Site
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request just as it is given; a Host header that is None is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            given = {"Host": f"127.0.0.1:{self.port}"} | dict(headers or {})
            if body is not None:
                given.setdefault("Content-Length", str(len(body)))
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders(body)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post_json(self, path: str, values: Any, **headers: str) -> Answer:
        return self.ask(
            "POST", path, json.dumps(values).encode(), {"Content-Type": "application/json"} | headers
        )

    def post_form(
        self, path: str, fields: Mapping[str, str], *, file: tuple[str, bytes] | None = None
    ) -> Answer:
        """Send a form with a video; the answer is JSON, as the script of the pages has it."""
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Accept": "application/json"}
        return self.ask("POST", path, multipart(fields, file), headers)

    def result(self, address: str) -> Answer:
        """Return the page of a job when it has ended."""
        job = self.site.workroom.find(address.split("#")[0].split("/")[2])
        assert job.ended.wait(60), "it takes too long"
        return self.get(address.split("#")[0])

    def video_id(self, name: str) -> str:
        """Return the id of a file of the folder."""
        listed = {video["video"]: video["video_id"] for video in self.get("/api/videos").json["videos"]}
        return listed[name]


def multipart(fields: Mapping[str, str], file: tuple[str, bytes] | None = None) -> bytes:
    """Return a form as browsers send it."""
    parts = [f'name="{name}"\r\n\r\n{value}'.encode() for name, value in fields.items()]
    if file is not None:
        name, data = file
        head = f'name="file"; filename="{name}"\r\nContent-Type: video/mp4\r\n\r\n'
        parts.append(head.encode() + data)
    lines = [f"--{BOUNDARY}\r\nContent-Disposition: form-data; ".encode() + part + b"\r\n" for part in parts]
    return b"".join(lines) + f"--{BOUNDARY}--\r\n".encode()


@contextlib.contextmanager
def serving(run: Run, videos: Path | None, *, place: Path | None = None) -> Iterator[Served]:
    """Serve a run until the end of the block."""
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    limits = Limits(upload_bytes=UPLOAD_BYTES, seconds=60.0, memory_gib=2.0)
    options = IndexOptions(place=place, num_clips=2, num_workers=0)
    with Site(run, videos=videos, num_clips=2, limits=limits, index_options=options) as site:
        server = make_server(make_app(site, hosts=host_names("127.0.0.1")))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield Served(site, port)
        finally:
            server.should_exit = True
            thread.join(timeout=30)
            listening.close()
