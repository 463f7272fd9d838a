"""What names and subnets mean on this machine: the facts that a network for containers is planned with."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable
from pathlib import Path

import psutil

from bootstrap.planning.site import Resolved

_WIDEST = 8
_ROUTES = Path("/proc/net/route")
_MOST_NEIGHBOURS = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
_NEIGHBOURS = Path("/proc/net/stat/arp_cache")


def resolve(names: Iterable[str]) -> dict[str, Resolved]:
    """What each name leads to on this machine, by IPv4; a name that leads nowhere is left out."""
    own = {each.address for addresses in psutil.net_if_addrs().values() for each in addresses}
    found = {}
    for name in names:
        try:
            address = str(socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
        except OSError:
            continue
        loopback = ipaddress.ip_address(address).is_loopback
        found[name] = Resolved(address, "loopback" if loopback else "own" if address in own else "elsewhere")
    return found


def routed_subnets() -> tuple[str, ...]:
    """The IPv4 subnets that this machine has an address in or a route to, the default route left out."""
    interfaces = {
        str(ipaddress.ip_network(f"{each.address}/{each.netmask}", strict=False))
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET and each.netmask
    }
    return tuple(sorted(interfaces | set(_routes())))


def room_for_neighbours() -> int:
    """How many more entries the kernel's neighbour table takes, at least 1; 0 where that cannot be read."""
    try:
        most = int(_MOST_NEIGHBOURS.read_text())
        # Its first column, in hexadecimal, is the number of entries; every line, one for each core, has the same.
        known = int(_NEIGHBOURS.read_text().splitlines()[1].split()[0], 16)
    except (OSError, ValueError, IndexError):
        return 0
    return max(1, most - known)


def _routes() -> Iterable[str]:
    """Routes to networks; those that take half of everything are default routes in disguise, as VPNs make them."""
    try:
        lines = _ROUTES.read_text().splitlines()[1:]
    except OSError:
        # Only Linux has it; elsewhere the engine's networks are behind a virtual machine's own routes anyway.
        return
    for line in lines:
        _, destination, _, _, _, _, _, mask, *_ = line.split()
        if int(mask, 16).bit_count() >= _WIDEST:
            yield f"{_dotted(destination)}/{_dotted(mask)}"


def _dotted(text: str) -> str:
    # The kernel prints addresses in network order as a number of this machine's order.
    return socket.inet_ntoa(struct.pack("=I", int(text, 16)))
