"""Compiled programs on disk, so that a command does not compile at every start.

JAX runs the machine code in this directory: everyone who may write to it can run programs as this user. So it
is private, and a directory that others may write to is not used. JAX's own variables hold:
`JAX_COMPILATION_CACHE_DIR` names another directory, `JAX_ENABLE_COMPILATION_CACHE=false` keeps no programs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock

from clipbert_jax.errors import UserError
from experiments.runtime.progress import say

MAX_BYTES = 10 * 2**30
"""Size above which JAX deletes the programs that were unused for longest."""

MIN_COMPILE_SECONDS = 0.1
"""Shortest compilation that is kept. JAX's own limit is a second, but initialising a model takes dozens of
programs of some tenths each."""

_JAX_MIN_COMPILE_SECONDS = 1.0
_LOCK_SECONDS = 10.0
_BY_GROUP, _BY_ANYBODY = 0o020, 0o002
_OTHERWISE = (
    "name another directory with JAX_COMPILATION_CACHE_DIR, or keep none with "
    "JAX_ENABLE_COMPILATION_CACHE=false"
)


def _say_aside(message: str) -> None:
    """Print a line outside of a command's result, which may be JSON."""
    say(message, stream=sys.stderr)


def use_compilation_cache(log: Callable[[str], None] = _say_aside) -> None:
    """Have JAX keep compiled programs from here on, unless the directory cannot be made.

    Each of several processes reads its own directory, and only the first one writes: on several hosts name a
    shared directory.

    Args:
      log: receives a line if programs cannot be kept.

    Raises:
      UserError: others could put programs into the directory that JAX_COMPILATION_CACHE_DIR names.
    """
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return
    if config.jax_persistent_cache_min_compile_time_secs == _JAX_MIN_COMPILE_SECONDS:
        config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    chosen = config.jax_compilation_cache_dir
    try:
        if chosen:
            _check_chosen(chosen)
            return
        config.update("jax_compilation_cache_dir", str(_own_directory()))
    except UserError as error:
        if chosen:
            raise
        log(f"compiled programs are not kept for the next start: {error}")
        return
    except (
        OSError,
        RuntimeError,
    ) as error:  # RuntimeError: no home directory, or a file system without locks
        log(f"compiled programs cannot be kept for the next start ({error}): {_OTHERWISE}")
        return
    if config.jax_compilation_cache_max_size < 0:  # a limit that the user has set stays
        config.update("jax_compilation_cache_max_size", MAX_BYTES)


def default_directory() -> Path:
    """Return the directory of compiled programs, unless JAX has another one."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(cache) if os.path.isabs(cache) else Path("~/.cache").expanduser()
    return home / "clipbert_jax" / "compiled"


def _own_directory() -> Path:
    directory = default_directory()
    _make(directory)
    directory = directory.resolve()  # so that the checked directory is used even if a link changes later
    for part in (directory.parent, directory):
        _check_own(part)
    _remove_unfinished(directory)
    return directory


def _make(directory: Path) -> None:
    """Make a directory and those above it, private whatever the umask, as the XDG standard asks."""
    for part in reversed([directory, *directory.parents]):
        part.mkdir(mode=0o700, exist_ok=True)


def _check_own(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise UserError(f"{directory} is for compiled programs but belongs to another user: {_OTHERWISE}")
    if status.st_mode & (_BY_GROUP | _BY_ANYBODY):
        raise UserError(
            f"others may write to {directory}, and so make JAX run their programs as you: run "
            f"chmod 700 {directory}, and delete its files if you do not trust them"
        )


def _check_chosen(name: str) -> None:
    """Refuse a directory of the user's choice to which everyone may write.

    A user may trust a group, or another owner, but not everyone. In a folder such as /tmp any user may be the
    first to make a directory of that name.
    """
    if "://" in name:  # a bucket, whose permissions cannot be read here
        return
    _make(Path(name))
    directory = Path(name).resolve()
    status = directory.stat()
    is_foreign = status.st_uid not in (0, os.geteuid())
    if status.st_mode & _BY_ANYBODY or (is_foreign and directory.parent.stat().st_mode & _BY_ANYBODY):
        raise UserError(
            f"everyone may have put programs into {directory}, which JAX would run as you: unset "
            f"JAX_COMPILATION_CACHE_DIR, or set it to a new directory, which will be private"
        )


def _remove_unfinished(directory: Path) -> None:
    """Delete incomplete programs, of a kill or a full disk.

    JAX writes the time of use after the program. A program without that time makes releases before August
    2026 warn at every start, and keep no other programs.
    """
    with FileLock(directory / ".lockfile", timeout=_LOCK_SECONDS):  # JAX's own lock
        for program in directory.glob("*-cache"):
            used = program.with_name(f"{program.name.removesuffix('-cache')}-atime")
            if not used.exists():
                program.unlink()
