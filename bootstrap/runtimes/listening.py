"""Which TCP ports of the loopback interface are in use, and by whom."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

_LOOPBACK = {"127.0.0.1", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1"}  # noqa: S104 - compared, not bound
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PROBED = (*range(6379, 7380), *range(16379, 17380))


def taken_ports() -> dict[int, str]:
    """Port -> holder in words, of every local port that a server could not take."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        # macOS shows other users' sockets to root only; the usual block is then tried by binding it.
        return dict.fromkeys(busy_ports(_PROBED), "another process")
    taken: dict[int, str] = {}
    for each in connections:
        # A closed connection that lingers does not keep a server from its port.
        if each.laddr and each.laddr.ip in _LOOPBACK and each.status != psutil.CONN_TIME_WAIT:
            holder = _process(each.pid)
            if each.status == psutil.CONN_LISTEN or each.laddr.port not in taken:
                taken[each.laddr.port] = holder
    return taken


def busy_ports(ports: Iterable[int]) -> tuple[int, ...]:
    """The ports that cannot be bound on the loopback interface now, as a server would bind them."""
    return tuple(port for port in ports if not _bindable(port))


def holders(ports: Iterable[int], taken: Mapping[int, str] | None = None) -> dict[int, str]:
    """The holders of busy ports, in words."""
    known = taken_ports() if taken is None else taken
    return {port: known.get(port, "another process") for port in ports}


def ephemeral_ports() -> tuple[int, int]:
    """The range that the system takes source ports from; the usual one of other systems where it cannot be read."""
    try:
        low, high = map(int, _RANGE.read_text().split())
    except (OSError, ValueError):
        return 49152, 65535
    return low, high


def _bindable(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def _process(pid: int | None) -> str:
    if pid is None:
        return "another user's process"
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"process {pid}"
