"""Which block of ports a cluster takes: data ports in a row, each with its bus port 10000 above."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from bootstrap.errors import Conflict, PortTaken
from bootstrap.planning.site import Site
from bootstrap.planning.spec import BUS_OFFSET, MAX_DATA_PORT, ClusterSpec
from bootstrap.planning.text import listing

DEFAULT_BASE_PORT = 6379
_LOWEST_RANDOM = 10000


@dataclass(frozen=True, slots=True)
class Block:
    """The first data port, and what to tell about the choice (empty when there is nothing to tell)."""

    base: int
    note: str = ""
    warning: str = ""


PortUse = Literal["all", "data", "none"]
"""Which ports of a block a cluster takes on this machine."""


def block_ports(base: int, nodes: int, use: PortUse = "all") -> tuple[int, ...]:
    """The ports of a block that are used: data ports, then bus ports."""
    data = range(base, base + nodes) if use != "none" else ()
    bus = range(base + BUS_OFFSET, base + BUS_OFFSET + nodes) if use == "all" else ()
    return (*data, *bus)


def choose_block(spec: ClusterSpec, site: Site, use: PortUse = "all") -> Block:
    """Choose by the rule of ``spec.base_port``: a number is strict, None prefers 6379, ``"auto"`` is random.

    Args:
        spec: what is asked for.
        site: with the ports that are taken.
        use: which ports of this machine are used.

    Raises:
        PortTaken: a strict block with a port in use, its holders named.
        Conflict: no free block is left.
    """
    if spec.base_port == "auto":
        return Block(_first_free(_random_bases(spec.nodes, site), spec.nodes, site, use))
    if spec.base_port is None:
        return _preferred_block(spec, site, use)
    ports = block_ports(spec.base_port, spec.nodes, use)
    if taken := _in_use(ports, site.taken_ports):
        raise taken_error(taken)
    return Block(spec.base_port, warning=_ephemeral_warning(ports, site))


def next_ports(site: Site, used: Collection[int], number: int, use: PortUse, *, base: int) -> tuple[int, ...]:
    """Data ports for further nodes of a cluster: the lowest free ones from its first port on.

    Args:
        site: with the ports that are taken, and those of stopped clusters; the cluster's own may be among them.
        used: the data ports of the cluster's nodes.
        number: how many are needed.
        use: which ports of this machine a node uses.
        base: the cluster's first data port.

    Raises:
        Conflict: there are not as many.
    """
    avoided = set(site.taken_ports) | set(site.reserved_ports)
    avoided.update(port for each in used for port in block_ports(each, 1, use))
    found: list[int] = []
    for port in range(base, MAX_DATA_PORT + 1):
        if len(found) == number:
            break
        needed = block_ports(port, 1, use)
        # Where no port of this machine is used, nodes have different ones all the same.
        if port not in used and avoided.isdisjoint(needed):
            found.append(port)
            avoided.update(needed)
    if len(found) < number:
        raise Conflict(
            f"no {number} free data ports from {base} on with free bus ports {BUS_OFFSET} above", code="no-free-ports",
            hint="delete a cluster (`valkey-bootstrap list`) or use fewer nodes",
        )  # fmt: skip
    return tuple(found)


def taken_error(taken: Mapping[int, str]) -> PortTaken:
    """The error for ports in use: each holder with its ports."""
    held: dict[str, list[str]] = {}
    for port, holder in sorted(taken.items()):
        held.setdefault(holder, []).append(str(port))
    words = [
        f"port {ports[0]} is held by {holder}" if len(ports) == 1 else f"ports {listing(ports)} are held by {holder}"
        for holder, ports in held.items()
    ]
    hint = "choose another --base-port, or leave it out to take the next free block"
    return PortTaken("; ".join(words), ports=taken, hint=hint)


def _preferred_block(spec: ClusterSpec, site: Site, use: PortUse) -> Block:
    nodes = spec.nodes
    base = _first_free(range(DEFAULT_BASE_PORT, MAX_DATA_PORT - nodes + 2), nodes, site, use)
    if base == DEFAULT_BASE_PORT:
        return Block(base)
    taken = _in_use(block_ports(DEFAULT_BASE_PORT, nodes, use), {**site.reserved_ports, **site.taken_ports})
    # Said from the default block: the blocks between it and the choice overlap it, or are taken for the same reason.
    port, holder = min(taken.items())
    return Block(base, note=f"ports start at {base}: {port} is held by {holder}")


def _first_free(bases: Iterable[int], nodes: int, site: Site, use: PortUse) -> int:
    avoided = set(site.taken_ports) | set(site.reserved_ports)
    for base in bases:
        if avoided.isdisjoint(block_ports(base, nodes, use)):
            return base
    raise Conflict(
        f"no {nodes} free data ports in a row with free bus ports {BUS_OFFSET} above", code="no-free-ports",
        hint="delete a cluster (`valkey-bootstrap list`) or use fewer nodes",
    )  # fmt: skip


def _random_bases(nodes: int, site: Site) -> Iterator[int]:
    # Both ports stay below the ephemeral range, whose ports come and go with every outgoing connection.
    highest = min(site.ephemeral_ports[0] - 1, 65535) - BUS_OFFSET - nodes + 1
    if highest < _LOWEST_RANDOM:
        highest = MAX_DATA_PORT - nodes + 1
    span = highest - _LOWEST_RANDOM + 1
    return (_LOWEST_RANDOM + (site.seed + step) % span for step in range(span))


def _in_use(ports: Iterable[int], taken: Mapping[int, str]) -> dict[int, str]:
    return {port: taken[port] for port in ports if port in taken}


def _ephemeral_warning(ports: Iterable[int], site: Site) -> str:
    low, high = site.ephemeral_ports
    if any(low <= port <= high for port in ports):
        return f"ports of this block lie in {low}-{high}, which outgoing connections take from: they clash at random"
    return ""
