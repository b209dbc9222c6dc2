"""`clipbert serve`: a local web app to search, ask and probe with a model."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from clipbert_jax.errors import UserError
from experiments.input_checks import MAX_CLIPS, check_range

if TYPE_CHECKING:
    from experiments.search.options import IndexOptions
    from experiments.serve.limits import Limits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Serve:
    """Start a web app to search, ask and probe with a model; Ctrl-C ends it.

    Only this machine can reach it: there is no login. With --videos, a model trained for retrieval or
    pretraining searches that folder, and videos can be chosen from it. Videos can also be uploaded. Needs the
    extra `serve`.
    """

    run_dir: Annotated[Positional[Path], arg(metavar="RUN")]
    """Run directory of `clipbert train`, or a model directory."""
    videos: Annotated[Path | None, arg(metavar="DIR")] = None
    """Folder of videos, images and GIFs; includes its subfolders."""
    host: str = "127.0.0.1"
    """Address to listen at; must belong to this machine alone, such as 127.0.0.1 or ::1."""
    port: int = 8000
    """Port to listen at; 0 chooses a free one."""
    num_clips: int = 8
    """Number of clips per video, spread over the whole video."""
    step: int | Literal["best", "newest"] | None = None
    """Checkpoint to use; default: the best on validation, or the newest without validation."""
    index: Path | None = None
    """Folder of the search index; default: .clipbert_index in DIR."""
    max_upload_mb: float = 200.0
    """Size limit of an uploaded video."""
    max_seconds: float = 120.0
    """Time limit for decoding a video, and for a probe."""
    worker_memory_gib: float = 4.0
    """Memory limit of a process that decodes, which must hold a whole file."""
    num_workers: int | None = None
    """Number of processes that decode for the index; default: one per core."""

    def run(self) -> None:
        """Serve until Ctrl-C.

        Raises:
          UserError: the run or folder is missing, the extra is not installed, or the address cannot be used.
        """
        self._check()
        _import_extra()
        listening = listen(self.host, self.port)
        try:
            self._serve(listening)
        finally:
            listening.close()

    def _check(self) -> None:
        check_range("--port", self.port, 0, 65535)
        check_range("--num-clips", self.num_clips, 1, MAX_CLIPS)
        check_range("--max-upload-mb", self.max_upload_mb, 0.1, 100_000)
        check_range("--max-seconds", self.max_seconds, 1)
        check_range("--worker-memory-gib", self.worker_memory_gib, 0.5)
        if self.num_workers is not None:
            check_range("--num-workers", self.num_workers, 1)
        if self.videos is not None and not self.videos.is_dir():
            what = "is a file" if self.videos.is_file() else "does not exist"
            raise UserError(f"--videos {self.videos} {what}: give the folder with the videos")

    def _serve(self, listening: socket.socket) -> None:
        from experiments.runs.load_run import load_run
        from experiments.runtime.compilation_cache import use_compilation_cache
        from experiments.serve.app import make_app, make_server
        from experiments.serve.site import Site

        use_compilation_cache()
        run = load_run(self.run_dir, step=self.step)
        address = listening.getsockname()
        end_on_signals()
        try:
            with Site(
                run,
                videos=self.videos,
                num_clips=self.num_clips,
                limits=self._limits(),
                index_options=self._index_options(),
            ) as site:
                app = make_app(site, hosts=host_names(self.host))
                _say_where(self.host, address)
                make_server(app).run(sockets=[listening])
        except KeyboardInterrupt:
            pass
        with contextlib.suppress(OSError):  # the terminal may be closed
            print("clipbert serve has ended; uploaded videos are deleted", file=sys.stderr, flush=True)

    def _limits(self) -> Limits:
        from experiments.serve.limits import Limits

        return Limits(
            upload_bytes=int(self.max_upload_mb * 1e6),
            seconds=self.max_seconds,
            memory_gib=self.worker_memory_gib,
        )

    def _index_options(self) -> IndexOptions:
        from data_pipelines.workers.decoding_speed import num_usable_cores
        from experiments.search.options import IndexOptions

        return IndexOptions(
            place=self.index,
            num_clips=self.num_clips,
            num_workers=num_usable_cores() if self.num_workers is None else self.num_workers,
            worker_memory_gib=self.worker_memory_gib,
        )


def end_on_signals() -> None:
    """Delete uploads also when this process is terminated or its terminal is closed, except under `nohup`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def _import_extra() -> None:
    """Check that the packages of the extra are installed.

    Raises:
      UserError: a package is missing.
    """
    try:
        import python_multipart  # noqa: F401
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"clipbert serve needs the package {error.name}: pip install -e '.[serve]' in the repository"
        ) from error


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, before the model is loaded, so that a wrong address is said at once.

    Raises:
      UserError: the address is not a loopback address of this machine, or the port is in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--host {host} is not a name or address of this machine ({error})") from error
    if not ipaddress.ip_address(str(address[0]).split("%")[0]).is_loopback:
        raise UserError(
            f"--host {host} can be reached from other machines, and the app has no login: leave --host out; "
            f"from another machine use `ssh -L {port}:localhost:{port}`"
        )
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        other = port + 1 if port < 65535 else port - 1
        raise UserError(
            f"port {port} of {host} cannot be used ({error.strerror}): choose another one, such as "
            f"--port {other}"
        ) from error
    return listening


def host_names(host: str) -> list[str]:
    """Return the names that a Host header may hold."""
    return ["localhost", "127.0.0.1", "[::1]", _bracketed(host)]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _say_where(host: str, address: Any) -> None:
    print(f"http://{_bracketed(host)}:{address[1]}/  (Ctrl-C ends it)", flush=True)
