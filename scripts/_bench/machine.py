"""What the machine must have for a measurement, and what is told about it with the results."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from scripts._bench.failures import Failure

CONNTRACK = Path("/proc/sys/net/netfilter")
ROOM = 0.8
"""How full the table of connections may become."""
ROOM_SECONDS = 180.0
"""How long there is waited for room; a closed connection stays in the table for 120 s."""


def connections_of(nodes: int) -> int:
    """Entries that one run may leave in the table: meetings open more links than stay, and tools connect, too."""
    return 4 * nodes * nodes


def await_room(nodes: int, tell: Callable[[str], None], folder: Path = CONNTRACK) -> None:
    """Wait until the kernel's table of connections has room for one run.

    Where it is full, packets that open a connection are dropped, and runs become ten times slower for no fault of any
    tool. There is no such table where no firewall follows connections; Docker's does.

    Raises:
        Failure: the table is too small, or there is no room for too long.
    """
    end, told = time.monotonic() + ROOM_SECONDS, False
    while (table := _read_table(folder)) is not None:
        count, most = table
        if count + connections_of(nodes) < ROOM * most:
            return
        hint = f"raise net.netfilter.nf_conntrack_max to {2 * connections_of(nodes)}, or measure fewer nodes"
        if connections_of(nodes) >= ROOM * most:
            raise Failure(f"{nodes} nodes need more than the {most} entries of the connection table", hint)
        if time.monotonic() > end:
            raise Failure(f"the connection table has {count} of {most} entries for over {ROOM_SECONDS:g} s", hint)
        if not told:
            tell(f"waiting for room in the connection table ({count} of {most} entries) ...")
            told = True
        time.sleep(1)


def _read_table(folder: Path) -> tuple[int, int] | None:
    try:
        return int((folder / "nf_conntrack_count").read_text()), int((folder / "nf_conntrack_max").read_text())
    except OSError:
        return None


def allow_files(nodes: int) -> None:
    """Raise the limit of open files where it is too low; servers and tools inherit it.

    Raises:
        Failure: it may not be raised that far.
    """
    # A server has two links to each other one, the data and the log, and its clients; the tool and the witness have
    # one connection to each server.
    wanted = 4 * nodes + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Failure(f"{nodes} nodes need {wanted} open files, and the limit is {hard}", f"`ulimit -Hn {wanted}`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def wheel_file(distribution: str, name: str) -> str | None:
    """A file of an installed wheel, by its list of files."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(each.locate())) for each in files if each.name == name]
    # Several platforms in one wheel are told apart by the folder's name.
    found.sort(key=lambda path: path.parent.name != f"{sys.platform}-{platform.machine().lower()}")
    return str(found[0]) if found else None


def version_of(*command: str) -> str:
    """What a program calls itself, such as ``9.1.2``.

    Raises:
        Failure: it cannot be run, or says something else.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise Failure(
            f"`{command[0]}` cannot be run: {error}", "give the path of a program for this machine"
        ) from error
    found = re.search(r"(?:v=|\s)(\d+\.\d+\.\d+)", done.stdout)
    if found is None:
        said = next(iter(done.stdout.splitlines()), "nothing")
        raise Failure(f"`{command[0]}` says no version, but {said!r}", "give the path of another program")
    return found[1]


def describe() -> dict[str, str | int]:
    """The machine as far as results depend on it, and the date."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        "python": platform.python_version(),
    }
