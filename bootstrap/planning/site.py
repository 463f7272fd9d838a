"""The frozen facts that a plan is made for: hosts, zones, the server, ports that are taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Version = tuple[int, int, int]

OLDEST: Version = (7, 0, 0)
"""The first version with CLUSTER ADDSLOTSRANGE, CLUSTER LINKS and INFO of several sections."""

_SETTING_SINCE: Mapping[str, Version] = {
    # Only Valkey has these: human node names came with 7.2 (valkey-io/valkey#52 keeps Redis 7.2's), zones with
    # 8.0 (valkey-io/valkey#700). Redis 7.0, where both are missing, dies of a setting it does not know.
    "cluster-announce-human-nodename": (7, 2, 0),
    "cluster-ping-interval": (7, 2, 0),
    "availability-zone": (8, 0, 0),
}


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server binary or image: what it is, its version, where it is and how it was found."""

    flavor: Literal["valkey", "redis"]
    version: Version
    path: str
    source: str = ""

    def has(self, setting: str) -> bool:
        """Whether the server knows a setting of newer versions; True for all others."""
        since = _SETTING_SINCE.get(setting)
        if since is None:
            return True
        return self.flavor == "valkey" and self.version >= since

    def __str__(self) -> str:
        return f"{self.flavor} {'.'.join(map(str, self.version))}"


@dataclass(frozen=True, slots=True)
class Host:
    """A failure domain, declared by the runtime: a machine and, if known, its zone."""

    name: str
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Site:
    """What a runtime found at one moment.

    Args:
        runtime: the kind of runtime.
        hosts: where nodes can be put; dealt to the nodes in turn.
        server: what will run.
        taken_ports: port -> who holds it, in words.
        reserved_ports: ports of stopped clusters of ours, avoided by choice but no conflict.
        ephemeral_ports: the range that the system takes source ports from.
        seed: any number; picks the block for ``base_port="auto"``.
        assumptions: what was assumed rather than looked at, in sentences.
    """

    runtime: str
    hosts: tuple[Host, ...]
    server: ServerInfo
    taken_ports: Mapping[int, str] = field(default_factory=dict)
    reserved_ports: Mapping[int, str] = field(default_factory=dict)
    ephemeral_ports: tuple[int, int] = (32768, 60999)
    seed: int = 0
    assumptions: tuple[str, ...] = ()

    @classmethod
    def assumed(cls) -> Site:
        """The site that a dry run plans for without looking: one host, a current server, every port free."""
        return cls(
            runtime="process",
            hosts=(Host("localhost"),),
            server=ServerInfo("valkey", (9, 1, 0), "valkey-server", "assumed"),
            assumptions=(
                "servers are local processes on one host",
                "the server is Valkey 9.1",
                "no port is taken and no cluster of this name exists",
            ),
        )
