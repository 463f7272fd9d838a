"""Dialling from inside a container's network namespace: as root, on the engine's own machine."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from bootstrap.concurrency import in_thread
from bootstrap.judging.causes import Outcome

_CLONE_NEWNET = 0x40000000


def can_enter() -> bool:
    """Whether network namespaces of other processes can be entered from here."""
    return sys.platform == "linux" and os.geteuid() == 0


class NamespaceVantage:
    """See `bootstrap.runtimes.base.Vantage`.

    Args:
        name: the place, for people.
        pid: gives the id of a process in the namespace, None if there is none now.
    """

    def __init__(self, name: str, pid: Callable[[], int | None]) -> None:
        self.name = name
        self._find = pid
        self._found: int | None = None

    async def dial(self, host: str, port: int, *, timeout: float) -> Outcome:
        """See `Vantage.dial`; only addresses, since names are another matter inside."""
        return await in_thread(self._dial, host, port, timeout)

    def _dial(self, host: str, port: int, timeout: float) -> Outcome:
        # Asked for once, and again when that process is gone: a gathering of evidence dials every port.
        if self._found is None or not Path(f"/proc/{self._found}/ns/net").exists():
            self._found = self._find()
        pid = self._found
        if pid is None:
            return "unreachable"
        found: list[Outcome] = []
        # A thread of its own, which ends inside: one that came back to a pool would take others in with it.
        thread = threading.Thread(target=lambda: found.append(_dial_in(pid, (host, port), timeout)))
        thread.start()
        thread.join()
        return found[0] if found else "unreachable"


def _dial_in(pid: int, address: tuple[str, int], timeout: float) -> Outcome:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                return "unreachable"
    except OSError:
        # The process has ended since it was found.
        return "unreachable"
    try:
        with socket.create_connection(address, timeout):
            return "open"
    except TimeoutError:
        return "silent"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return "unresolvable" if isinstance(error, socket.gaierror) or error.errno == errno.EINVAL else "unreachable"
