"""Where a node is reached: by clients, by the other nodes, and by this package.

A node behind address translation has several addresses (the "NAT problem"): what it announces to clients, what its
peers meet, and the way that the bootstrapper itself takes. Servers on the loopback interface have the same one for all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bootstrap.planning.spec import BUS_OFFSET

Audience = Literal["host", "network"]
"""Who wants to connect: programs on this machine, or programs beside the servers on their own network."""

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\s:\[\]@/,]+)):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host, by name or address, and a TCP port; ``str()`` gives ``host:port``, IPv6 in brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``.

        Raises:
            ValueError: for anything else, and for ports outside 1 to 65535.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(match["six"] or match["host"], int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """All the addresses of one node.

    Args:
        host: what clients on this machine connect to.
        network: what clients beside the servers connect to; the same as `host` where those are on this machine.
        control: the way this package itself takes.
        meet: how the other nodes reach it; ``CLUSTER MEET`` takes IP literals only (`clusterStartHandshake`).
        bus_port: the port of the cluster bus at ``meet.host``.
    """

    host: Address
    network: Address | None
    control: Address
    meet: Address
    bus_port: int

    @property
    def bus(self) -> Address:
        """Where the other nodes reach the cluster bus."""
        return Address(self.meet.host, self.bus_port)

    def of(self, audience: Audience) -> Address | None:
        """The address for an audience, or None where it has none."""
        return self.host if audience == "host" else self.network

    def as_dict(self) -> dict[str, str | None]:
        """The JSON form: ``host``, ``network`` and ``bus`` as ``host:port``."""
        return {
            "host": str(self.host),
            "network": str(self.network) if self.network else None,
            "bus": str(self.bus),
        }


def loopback(port: int) -> NodeAddresses:
    """A server of this machine's loopback interface: one address for everybody, bus port 10000 above."""
    address = Address("127.0.0.1", port)
    return NodeAddresses(address, address, address, address, port + BUS_OFFSET)


def given(address: Address, ip: str, bus_port: int | None = None) -> NodeAddresses:
    """A server that somebody else runs: reached as given, met by the IP literal that its name resolved to."""
    meet = Address(ip, address.port)
    return NodeAddresses(address, address, address, meet, bus_port or address.port + BUS_OFFSET)
