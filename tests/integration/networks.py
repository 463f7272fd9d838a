"""A network of a test's own, with a loopback interface that can be as bad as the test likes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import judge
from .conftest import lacking, require_root
from .engines import into

_SETUP = """
set -e
ip link set lo up
eval "$1"
echo ready
# Until the tests are gone, whatever ended them.
read -r _ || true
"""


@contextmanager
def own_network(setup: str) -> Iterator[int]:
    """A network namespace; a process whose network it is, for `into` and `Inside`. Root only.

    Args:
        setup: shell commands that make it bad, by programs that may be missing.
    """
    require_root()
    for program in ("unshare", "nsenter", "ip", "iptables"):
        if shutil.which(program) is None:
            lacking("root", f"there is no {program}")
    with subprocess.Popen(
        ["unshare", "--net", "bash", "-c", _SETUP, "own-network", setup], text=True, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as first:  # fmt: skip
        assert first.stdout is not None
        assert first.stderr is not None
        try:
            if first.stdout.readline() != "ready\n":
                lacking("root", f"no such network can be made: {first.stderr.read().strip()}")
            yield first.pid
        finally:
            first.kill()


def run_in(pid: int, *argv: str, lines: str = "", cwd: Path | None = None) -> str:
    """What a program prints in the network of a process; it must end with exit code 0."""
    done = subprocess.run(
        [*into(pid), *argv], input=lines, capture_output=True, text=True, timeout=120, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def judge_in(pid: int, case: judge.Case) -> Sequence[str]:
    """What the judge finds in the network of a process."""
    found: list[str] = json.loads(run_in(pid, sys.executable, judge.__file__, lines=case.to_json()))
    return found
