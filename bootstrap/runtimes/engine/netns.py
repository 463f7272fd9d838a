"""Dialling from inside a container's network namespace: as root, on the engine's own machine.

Only a socket is made inside: it stays there, and is used from here like any other.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rdatatype

from bootstrap.concurrency import in_thread
from bootstrap.judging.evidence import Contact
from bootstrap.runtimes.base import Ask
from bootstrap.runtimes.dialling import Question, contact_at

_CLONE_NEWNET = 0x40000000


def can_enter() -> bool:
    """Whether network namespaces of other processes can be entered from here."""
    return sys.platform == "linux" and os.geteuid() == 0


class NamespaceVantage:
    """See `bootstrap.runtimes.base.Vantage`.

    Args:
        name: the place, for people.
        node: the node whose place it is.
        pid: the id of a process in the namespace, or what gives it: None if there is none now.
    """

    beside = True
    slow = False

    def __init__(self, name: str, node: str, pid: int | Callable[[], int | None]) -> None:
        self.name = name
        self.node = node
        self._find = (lambda: pid) if isinstance(pid, int) else pid
        self._found: int | None = None

    async def dial(self, host: str, port: int, *, timeout: float, ask: Ask = None) -> Contact:
        """See `Vantage.dial`; names are resolved as the container does."""
        prepared = await in_thread(self._prepare, host, timeout)
        if isinstance(prepared, Contact):
            return prepared
        made, ip = prepared
        return await contact_at(made, (ip, port), timeout=timeout, ask=Question(host, ask) if ask else None)

    def _prepare(self, host: str, timeout: float) -> tuple[socket.socket, str] | Contact:
        """A socket inside, and the address that the host has there; or why there is none."""
        pid = self._pid()
        if pid is None:
            return Contact("unreachable")
        ip = resolve_inside(pid, host, timeout)
        if ip is None:
            return Contact("unresolvable")
        made = socket_inside(pid, socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        return Contact("unreachable") if made is None else (made, ip)

    def _pid(self) -> int | None:
        # Asked for once, and again when that process is gone: a gathering of evidence dials every port.
        if self._found is None or not Path(f"/proc/{self._found}/ns/net").exists():
            self._found = self._find()
        return self._found


def socket_inside(pid: int, family: int, kind: int) -> socket.socket | None:
    """A socket in the network namespace of a process; None if that cannot be entered, or the process is gone."""
    made: list[socket.socket] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with Path(f"/proc/{pid}/ns/net").open("rb") as namespace:
                if libc.setns(namespace.fileno(), _CLONE_NEWNET) == 0:
                    made.append(socket.socket(family, kind))
        except OSError:
            # The process has ended since it was found.
            return

    # A thread of its own, which ends inside: one that came back to a pool would take others in with it.
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return made[0] if made else None


def resolve_inside(pid: int, host: str, timeout: float) -> str | None:
    """The address that a name has for a process in a container: by its hosts file, then by its name server."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    root = Path(f"/proc/{pid}/root/etc")
    if (known := _read_hosts(_lines(root / "hosts")).get(host.lower())) is not None:
        return known
    servers = [parts[1] for parts in map(str.split, _lines(root / "resolv.conf")) if parts[:1] == ["nameserver"]]
    return next((found for server in servers[:1] if (found := _ask(pid, server, host, timeout))), None)


def _lines(path: Path) -> Sequence[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return ()


def _read_hosts(lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            found.setdefault(name.lower(), address)
    return found


def _ask(pid: int, server: str, host: str, timeout: float) -> str | None:
    made = socket_inside(pid, socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    if made is None:
        return None
    made.setblocking(False)
    with made:
        try:
            reply = dns.query.udp(dns.message.make_query(host, "A"), server, timeout=timeout, sock=made)
        except (dns.exception.DNSException, OSError):
            return None
    return next((str(item) for each in reply.answer if each.rdtype == dns.rdatatype.A for item in each), None)
