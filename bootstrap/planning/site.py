"""The frozen facts that a plan is made for: hosts, zones, the server, ports that are taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bootstrap.planning.spec import DEFAULT_IMAGE, ClusterSpec

Version = tuple[int, int, int]

OLDEST: Version = (7, 0, 0)
"""The first version with CLUSTER ADDSLOTSRANGE, CLUSTER LINKS and INFO of several sections."""

ASSUMED_ENGINE = "28.0.0"
ASSUMED_NEIGHBOURS = 1024
"""Linux's default."""

_TAG = re.compile(r"(?P<flavor>valkey|redis)[^/:]*:v?(?P<version>\d+(\.\d+){0,2})")

EnginePlace = Literal["local", "desktop", "rootless", "nested", "remote", "dind"]

_SETTING_SINCE: Mapping[str, Version] = {
    # Only Valkey has these: human node names came with 7.2 (valkey-io/valkey#52 keeps Redis 7.2's), zones with
    # 8.0 (valkey-io/valkey#700). Redis 7.0, where both are missing, dies of a setting it does not know.
    "cluster-announce-human-nodename": (7, 2, 0),
    "cluster-ping-interval": (7, 2, 0),
    "availability-zone": (8, 0, 0),
    "cluster-announce-client-ipv4": (8, 1, 0),
}


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server binary or image: what it is, its version, where it is and how it was found."""

    flavor: Literal["valkey", "redis"]
    version: Version
    path: str
    source: str = ""

    @property
    def program(self) -> str:
        """The name of its binary, such as ``valkey-server``."""
        return f"{self.flavor}-server"

    @property
    def cli(self) -> str:
        """The name of the command-line client that comes with it."""
        return f"{self.flavor}-cli"

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
class Resolved:
    """What a name leads to on this machine: an IPv4 address, and whose that is."""

    address: str
    whose: Literal["loopback", "own", "elsewhere"]


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine, as far as a plan depends on it.

    Args:
        place: where it runs, seen from here: on this Linux machine (``local``), in a virtual machine behind this one
            (``desktop``), without root, which keeps its bridges out of reach (``rootless``), around the container that
            we ourselves run in (``nested``), on another machine (``remote``), or in a container beside the one that we
            run in, asked over TCP (``dind``, Docker in Docker).
        version: its version, such as ``28.2.2``.
        machine: what the machine that it runs on is called here: our own host name, or the host that it is asked at.
        taken_subnets: subnets in use, by the engine's networks or by this machine's interfaces and routes.
        neighbours: how many more addresses the kernel can keep as neighbours (`gc_thresh3` of arp(7), for all network
            namespaces together), 0 if unknown.
    """

    place: EnginePlace
    version: str
    machine: str = ""
    taken_subnets: tuple[str, ...] = ()
    neighbours: int = 0

    @property
    def major(self) -> int:
        """The first number of its version; 0 if it has none."""
        first = self.version.split(".", maxsplit=1)[0]
        return int(first) if first.isdigit() else 0


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
        engine: the container engine, where servers run in containers.
        names: what the names that matter lead to on this machine; a name that leads nowhere is left out.
    """

    runtime: str
    hosts: tuple[Host, ...]
    server: ServerInfo
    taken_ports: Mapping[int, str] = field(default_factory=dict)
    reserved_ports: Mapping[int, str] = field(default_factory=dict)
    ephemeral_ports: tuple[int, int] = (32768, 60999)
    seed: int = 0
    assumptions: tuple[str, ...] = ()
    engine: Engine | None = None
    names: Mapping[str, Resolved] = field(default_factory=dict)

    @classmethod
    def assumed(cls, spec: ClusterSpec | None = None) -> Site:
        """The site that a dry run plans for without looking: one host, a current server, every port free.

        Where the specification does not ask for local processes, an engine on this Linux machine is assumed.
        """
        spec = spec or ClusterSpec()
        current = (9, 1, 0)
        free = "no port is taken and no cluster of this name exists"
        if spec.runtime == "process" or spec.server is not None:
            return cls(
                runtime="process",
                hosts=(Host("localhost"),),
                server=ServerInfo("valkey", current, spec.server or "valkey-server", "assumed"),
                assumptions=("servers are local processes on one host", "the server is Valkey 9.1", free),
            )
        image = spec.image or DEFAULT_IMAGE
        server = server_of_tag(image) or ServerInfo("valkey", current, image, "assumed")
        names = {spec.announce_host: Resolved("127.0.0.1", "loopback")} if spec.announce_host else {}
        resolves = (f"{spec.announce_host} leads to this machine",) if spec.announce_host else ()
        return cls(
            runtime="docker",
            hosts=(Host("localhost"),),
            server=server,
            assumptions=(
                "servers are containers of a Docker Engine on this Linux machine",
                f"the server of {image} is {server}",
                *resolves,
                free,
            ),
            engine=Engine("local", ASSUMED_ENGINE, neighbours=ASSUMED_NEIGHBOURS),
            names=names,
        )


def server_of_tag(image: str) -> ServerInfo | None:
    """The server that an image's name tells, ``valkey/valkey:8.1-alpine`` for one; None if it tells none."""
    # Not in the registry's name, whose port looks the same.
    match = _TAG.search(image.rpartition("/")[2])
    if match is None:
        return None
    numbers = [*map(int, match["version"].split(".")), 0, 0]
    flavor: Literal["valkey", "redis"] = "redis" if match["flavor"] == "redis" else "valkey"
    return ServerInfo(flavor, (numbers[0], numbers[1], numbers[2]), image, "by its tag")
