"""The plan: everything that is decided before anything is done, as data.

`build_plan` is pure: the same specification and the same site give the same plan, byte for byte. Facts that exist only
after preparation (the folder of a cluster, a gateway's address) stand in it as symbols, ``${folder}``, which the
equally pure `bind` replaces.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

from bootstrap.errors import Conflict
from bootstrap.planning import slots as slot_math
from bootstrap.planning.addressing import (
    Address,
    Announcement,
    NodeAddresses,
    Reach,
    announcement_notes,
    announcement_warnings,
    choose_announcement,
    given,
    loopback,
    ports_used,
    reach,
)
from bootstrap.planning.layout import Layout, Shard, make_layout
from bootstrap.planning.placement import Place, Placement, Score, describe, judge, place
from bootstrap.planning.ports import choose_block
from bootstrap.planning.site import Host, ServerInfo, Site
from bootstrap.planning.slots import SlotRange
from bootstrap.planning.spec import (
    DANGEROUS_SETTINGS,
    RESERVED_SETTINGS,
    ClusterSpec,
    memory_bytes,
    node_name,
    replica_counts,
)
from bootstrap.planning.subnets import Network, choose_network
from bootstrap.planning.text import listing, plural

FORMAT_VERSION = 1

NODE_TIMEOUT = "5000"
"""Milliseconds that a node may be silent before the others suspect it: a third of the servers' own default."""
CONFIG_FILE = "valkey.conf"
VOLUME_FOLDER = "/data"
"""Where a container has its volume, as official images do."""
DATA_FOLDER = f"{VOLUME_FOLDER}/server"
"""Where its server works: in a folder of the volume, which can be given to the server without starting anything."""
Role = Literal["primary", "replica"]

_SYMBOL = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Container:
    """How the engine makes a node's container.

    Args:
        image: what it runs.
        program: the server's name in it, such as ``valkey-server``.
        network: the name of the cluster's network.
        address: its fixed address there.
        published: addresses and ports of the engine's machine that lead to the same port of the container.
        hosts: names that it is to know, with their addresses.
        volume: the name of its volume, "" where data are gone with the container.
        memory: its limit in bytes, 0 for none.
    """

    image: str
    program: str
    network: str
    address: str
    published: tuple[Address, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    volume: str = ""
    memory: int = 0


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """One node as planned.

    Args:
        name: its name, unique in the cluster.
        index: the number in its name and of its fixed address. In a cluster as it was created the first nodes are the
            primaries; where members were changed since, indexes have holes, and roles are in any order.
        role: what it starts as; failovers may change that later.
        slots: the ranges it is given, empty for a replica.
        primary: the name of the primary it replicates, None for a primary.
        host: its declared failure domain.
        zone: its zone, "" if unknown.
        epoch: the config epoch it is given before it meets any other node.
        addresses: where it is reached.
        settings: its configuration, in the order of the file.
        container: how its container is made, where it runs in one.
    """

    name: str
    index: int
    role: Role
    slots: tuple[SlotRange, ...]
    primary: str | None
    host: str
    zone: str
    epoch: int
    addresses: NodeAddresses
    settings: tuple[tuple[str, str], ...] = ()
    container: Container | None = None

    def setting(self, key: str, default: str = "") -> str:
        """The configured value of a setting."""
        return dict(self.settings).get(key, default)

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "name": self.name,
            "index": self.index,
            "role": self.role,
            "slots": [list(pair) for pair in self.slots],
            "primary": self.primary,
            "host": self.host,
            "zone": self.zone or None,
            "addresses": self.addresses.as_dict(),
            "published": [str(address) for address in self.container.published] if self.container else [],
        }


@dataclass(frozen=True, slots=True)
class Creation:
    """One thing that would be created: its kind (folder, server ...), its name, and what is worth knowing of it."""

    kind: str
    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Underway:
    """A change of a running cluster that has begun; it is recorded, so that one that was killed can be carried on.

    Args:
        command: the verb and its arguments.
        leaving: the names of the nodes that are to leave.
    """

    command: str
    leaving: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster as it will be made; see `as_dict` for its JSON form.

    ``arithmetic`` words how the counts come about, ``placement`` the score over the declared failure domains,
    ``assumptions`` what was not looked at, ``network`` and ``announcement`` where containers are and how they are
    reached. ``base_port`` is the first data port of the block that the cluster was created with, 0 for servers of
    others. ``seated`` says that it is made of seats, since members were changed, and not by the counts of ``spec``;
    ``underway``, that it is what a change is on its way to, not what there is.
    """

    spec: ClusterSpec
    server: ServerInfo
    runtime: str
    nodes: tuple[PlannedNode, ...]
    creations: tuple[Creation, ...]
    arithmetic: str
    placement: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    network: Network | None = None
    announcement: Announcement | None = None
    base_port: int = 0
    seated: bool = False
    underway: Underway | None = None

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.spec.name

    @property
    def primaries(self) -> tuple[PlannedNode, ...]:
        """The nodes planned as primaries."""
        return tuple(node for node in self.nodes if node.role == "primary")

    @property
    def replicas(self) -> tuple[PlannedNode, ...]:
        """The nodes planned as replicas."""
        return tuple(node for node in self.nodes if node.role == "replica")

    @property
    def layout(self) -> Layout:
        """The planned shape, by node names."""
        return make_layout(
            Shard(each.name, each.slots, tuple(node.name for node in self.replicas if node.primary == each.name))
            for each in self.primaries
        )

    @property
    def announced(self) -> dict[str, Address]:
        """Where clients are to be sent for each node, where that is decided here."""
        return {node.name: node.addresses.announced for node in self.nodes if node.addresses.announced}

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: ``format_version``, ``name``, ``runtime``, ``nodes[]`` and what led to them."""
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "runtime": self.runtime,
            "server": {"flavor": self.server.flavor, "version": ".".join(map(str, self.server.version))},
            "primaries": len(self.primaries),
            "replicas": len(self.replicas),
            "announce": self.announcement.strategy if self.announcement else None,
            "network": {"name": self.network.name, "subnet": self.network.subnet} if self.network else None,
            "login": {"user": self.spec.user} if self.spec.user else None,
            "tls": self.spec.tls,
            "arithmetic": self.arithmetic,
            "placement": list(self.placement),
            "nodes": [node.as_dict() for node in self.nodes],
            "creates": [{"kind": each.kind, "name": each.name, "detail": each.detail} for each in self.creations],
            "warnings": list(self.warnings),
            "notes": list(self.notes),
            "assumptions": list(self.assumptions),
        }


@dataclass(frozen=True, slots=True)
class Facts:
    """What preparation found out: symbol -> value."""

    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Seat:
    """What a node is in a cluster: all that is decided of it, beside how it is reached.

    Args:
        index: of its name and its fixed address.
        port: its data port.
        host: its declared failure domain.
        zone: its zone, "" if unknown.
        primary: the name of its primary, None for a primary.
        slots: the ranges of a primary.
    """

    index: int
    port: int
    host: str
    zone: str = ""
    primary: str | None = None
    slots: tuple[SlotRange, ...] = ()

    @property
    def place(self) -> Place:
        """Where it is."""
        return Place(self.host, self.zone)


@dataclass(frozen=True, slots=True)
class Kept:
    """What an existing cluster keeps when it is planned again.

    Args:
        base_port: the first data port of its block.
        announcement: how its containers announce themselves.
        network: the network that they are on.
        seats: its nodes, where members were changed since it was created; none: it is as its specification says.
    """

    base_port: int
    announcement: Announcement | None = None
    network: Network | None = None
    seats: tuple[Seat, ...] = ()


def seats_of(plan: Plan) -> tuple[Seat, ...]:
    """The seats of any plan: what `Kept` holds to plan the same nodes, or others beside them."""
    return tuple(
        Seat(node.index, node.addresses.control.port, node.host, node.zone, node.primary, node.slots)
        for node in plan.nodes
    )


def seated_spec(spec: ClusterSpec, seats: Sequence[Seat]) -> ClusterSpec:
    """The specification with counts that are true of the seats: all nodes, no more replicas than each primary has."""
    fewest = fewest_replicas({node_name(spec.name, seat.index): seat.primary for seat in seats})
    return replace(spec, nodes=len(seats), replicas=min(spec.replicas, fewest), extra_replica_of=())


def fewest_replicas(primary_of: Mapping[str, str | None]) -> int:
    """How many replicas the primary has that has the fewest: node name -> its primary, None for a primary."""
    followers = Counter(primary_of.values())
    return min((followers[name] for name, primary in primary_of.items() if primary is None), default=0)


def build_plan(spec: ClusterSpec, site: Site, *, kept: Kept | None = None) -> Plan:
    """Decide everything.

    Args:
        spec: what is asked for. Where seats are kept they decide, and its counts are only recorded.
        site: the facts it is planned for.
        kept: what the existing cluster of this name keeps.

    Raises:
        SpecError: with every problem of the specification.
        UsageError: a way of announcing that cannot work here.
        PortTaken: a strict block of ports is in use.
        Conflict: no block of ports or no subnet is free, the cluster's network has no address for a seat, or seats
            that make no cluster.
    """
    if kept is not None and kept.seats:
        return _seated_plan(spec, site, kept)
    spec.check()
    where = _where(spec, site, kept)
    hosts = [site.hosts[index % len(site.hosts)] for index in range(spec.nodes)]
    places = [Place(host.name, _zone(spec, host, index)) for index, host in enumerate(hosts)]
    counts = replica_counts(spec)
    placement = place(places, counts)
    seats = _deal(
        [(node_name(spec.name, index), where.base + index) for index in range(spec.nodes)],
        [places[at] for at in placement.order],
        placement,
    )
    return _made(where, seats, arithmetic=_arithmetic(spec, counts), score=placement.score)


def _seated_plan(spec: ClusterSpec, site: Site, kept: Kept) -> Plan:
    seats = tuple(
        replace(seat, slots=slot_math.merge(slot_math.expand(seat.slots)))
        for seat in sorted(kept.seats, key=lambda seat: seat.index)
    )
    _check_seats(spec.name, seats)
    spec = replace(spec, nodes=len(seats), extra_replica_of=())
    # A block of ports, which has to have room for all nodes in a row, is not taken any more.
    replace(spec, base_port=None).check()
    primaries = [seat for seat in seats if seat.primary is None]
    replicas = [[each.place for each in seats if each.primary == node_name(spec.name, p.index)] for p in primaries]
    plan = _made(
        _where(spec, site, kept),
        seats,
        arithmetic=_sum_text(len(seats), len(primaries), len(seats) - len(primaries)),
        score=judge([[seat.place, *others] for seat, others in zip(primaries, replicas, strict=True)]),
    )
    return replace(plan, seated=True)


def _check_seats(cluster: str, seats: Sequence[Seat]) -> None:
    """Raise `Conflict` for seats that no cluster can have: whatever recorded them was not this package."""
    names = {node_name(cluster, seat.index) for seat in seats if seat.primary is None}
    slots = [slot for seat in seats for slot in slot_math.expand(seat.slots)]
    wrong = {
        "no primary": not names,
        "a replica of no primary": any(seat.primary not in {None, *names} for seat in seats),
        "a replica with slots": any(seat.slots and seat.primary for seat in seats),
        "an index twice": len({seat.index for seat in seats}) < len(seats),
        "a port twice": len({seat.port for seat in seats}) < len(seats),
        "a slot twice": len(set(slots)) < len(slots),
    }
    if any(wrong.values()):
        found = listing([what for what, true in wrong.items() if true])
        raise Conflict(
            f'the recorded members of "{cluster}" make no cluster: {found}',
            code="bad-record",
            hint=f"delete it, and create it again: `valkey-bootstrap delete --name {cluster}`",
        )


def _made(where: _Where, seats: Sequence[Seat], *, arithmetic: str, score: Score) -> Plan:
    spec, site = where.spec, where.site
    primaries = sum(seat.primary is None for seat in seats)
    nodes = tuple(
        where.finish(seat, node_name(spec.name, seat.index), epoch)
        for seat, epoch in zip(seats, _epochs(seats), strict=True)
    )
    hosts, zones = {seat.host for seat in seats}, {seat.zone for seat in seats if seat.zone}
    # No more are recorded of changed members than each primary has: some may have more.
    replicas = spec.replicas or int(len(seats) > primaries)
    return Plan(
        spec=spec,
        server=site.server,
        runtime=site.runtime,
        nodes=nodes,
        creations=_creations(spec, where.network, nodes),
        arithmetic=arithmetic,
        placement=describe(score, len(seats) - primaries, len(hosts), len(zones)),
        warnings=(*_warnings(spec, site, primaries, replicas), *where.warnings),
        notes=where.notes,
        assumptions=site.assumptions,
        network=where.network,
        announcement=where.announcement,
        base_port=where.base,
    )


@dataclass(frozen=True, slots=True)
class _Where:
    """Where the nodes will be: ports, and for containers the network and how they are announced."""

    spec: ClusterSpec
    site: Site
    base: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    announcement: Announcement | None = None
    network: Network | None = None

    def finish(self, seat: Seat, name: str, epoch: int) -> PlannedNode:
        """A node with its name and addresses."""
        server, port = self.site.server, seat.port
        if self.announcement is None or self.network is None:
            addresses = loopback(port)
            decided = _process_settings(name, addresses) | _port_settings(port, tls=self.spec.tls)
            settings = _settings(self.spec, server, name, seat.zone, decided)
            return _finish(seat, name, addresses, epoch, settings)
        there = self.network.address(seat.index)
        publish = self.spec.publish and self.site.engine is not None and self.site.engine.place != "nested"
        tls = self.spec.tls
        reached = reach(self.announcement, name, port, there, self.network.gateway, publish=publish, tls=tls)
        decided = _container_settings(reached) | _port_settings(port, tls=tls)
        settings = _settings(self.spec, server, name, seat.zone, decided)
        return replace(
            _finish(seat, name, reached.addresses, epoch, settings), container=self._container(name, there, reached)
        )

    def _container(self, name: str, address: str, reached: Reach) -> Container:
        assert self.network is not None
        return Container(
            image=self.site.server.path,
            program=self.site.server.program,
            network=self.network.name,
            address=address,
            published=reached.published,
            hosts=reached.hosts,
            volume="" if self.spec.ephemeral else f"{name}-data",
            memory=memory_bytes(self.spec.memory) if self.spec.memory else 0,
        )


def _where(spec: ClusterSpec, site: Site, kept: Kept | None) -> _Where:
    engine = site.engine
    announcement, network = (kept.announcement, kept.network) if kept else (None, None)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    if engine is not None:
        announcement = announcement or choose_announcement(spec, site)
        network = network or choose_network(spec.name, spec.nodes, engine.taken_subnets)
        notes = announcement_notes(announcement, spec, engine)
        warnings = announcement_warnings(announcement, spec, engine) if kept is None else ()
    if kept is not None:
        return _Where(spec, site, kept.base_port, notes, warnings, announcement, network)
    block = choose_block(spec, site, ports_used(announcement, publish=spec.publish))
    return _Where(
        spec,
        site,
        block.base,
        (*filter(None, (block.note,)), *notes),
        (*filter(None, (block.warning,)), *warnings),
        announcement,
        network,
    )


def _creations(spec: ClusterSpec, network: Network | None, nodes: Sequence[PlannedNode]) -> tuple[Creation, ...]:
    if network is None:
        folder = Creation("folder", spec.name, "configuration, data and logs of the servers")
        return (folder, *(Creation("server", node.name, _server_detail(node)) for node in nodes))
    return (
        Creation("network", network.name, f"{network.subnet}, gateway {network.gateway}"),
        *(
            Creation("volume", node.container.volume, f"data of {node.name}")
            for node in nodes
            if node.container and node.container.volume
        ),
        *(Creation("container", node.name, _server_detail(node)) for node in nodes),
    )


@dataclass(frozen=True, slots=True)
class Member:
    """A server that somebody else runs: its address, the IP literal its peers meet, and its declared place."""

    address: Address
    ip: str
    bus_port: int
    place: Place


def plan_members(members: Sequence[Member], replicas: int, server: ServerInfo, *, name: str = "form") -> Plan:
    """The plan for servers that already run: they are taken as they are, and nothing is created.

    Raises:
        SpecError: with the arithmetic, when the members are too few.
    """
    spec = ClusterSpec(name=name, nodes=len(members), replicas=replicas)
    spec.check()
    counts = replica_counts(spec)
    placement = place([member.place for member in members], counts)
    chosen = [members[at] for at in placement.order]
    named = [(str(member.address), member.address.port) for member in chosen]
    seats = _deal(named, [member.place for member in chosen], placement)
    nodes = tuple(
        _finish(seat, str(member.address), given(member.address, member.ip, member.bus_port), epoch)
        for seat, member, epoch in zip(seats, chosen, _epochs(seats), strict=True)
    )
    hosts, zones = {m.place.host for m in members}, {m.place.zone for m in members if m.place.zone}
    return Plan(
        spec=spec,
        server=server,
        runtime="none",
        nodes=nodes,
        creations=(),
        arithmetic=_arithmetic(spec, counts),
        placement=describe(placement.score, sum(counts), len(hosts), len(zones)),
        warnings=_quorum_warning(len(counts), replicas),
    )


def bind(plan: Plan, facts: Facts) -> Plan:
    """The plan with its symbols replaced.

    Raises:
        KeyError: a symbol that the facts do not have.
    """

    def filled(text: str) -> str:
        return _SYMBOL.sub(lambda match: facts.values[match[1]], text)

    def bound(address: Address) -> Address:
        return replace(address, host=filled(address.host))

    def node_bound(node: PlannedNode) -> PlannedNode:
        # Only settings that the plan itself decides carry symbols; a user's value is never looked into.
        settings = tuple((k, filled(v) if k in RESERVED_SETTINGS else v) for k, v in node.settings)
        # A symbol may turn out to be what stands beside it: a port is published once.
        published = tuple(dict.fromkeys(map(bound, node.container.published))) if node.container else ()
        container = node.container and replace(node.container, published=published)
        addresses = replace(node.addresses, meet=bound(node.addresses.meet))
        return replace(node, settings=settings, container=container, addresses=addresses)

    return replace(plan, nodes=tuple(map(node_bound, plan.nodes)))


ConfigLine = tuple[str, ...]
"""A setting and its values."""


def render_config(node: PlannedNode, secret: Sequence[ConfigLine] = ()) -> bytes:
    """The node's configuration file; values are quoted as the server's `sdssplitargs` reads them.

    Args:
        node: the node.
        secret: further lines, which are in no plan.
    """
    lines = [f"# {node.name}: written at every start; use --set to change a setting"]
    lines += [" ".join((key, *map(_quoted, values))) for key, *values in (*node.settings, *secret)]
    return ("\n".join(lines) + "\n").encode()


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def _deal(named: Sequence[tuple[str, int]], places: Sequence[Place], placement: Placement) -> tuple[Seat, ...]:
    """The seats of a cluster that is created: the first nodes are the primaries, and share the slots.

    Args:
        named: name and data port of each node.
        places: where each is.
        placement: who follows whom.
    """
    ranges = slot_math.slot_ranges(primaries := len(named) - len(placement.primary_of))
    follows = [None] * primaries + [named[at][0] for at in placement.primary_of]
    return tuple(
        Seat(index, port, where.host, where.zone, primary, () if primary else (ranges[index],))
        for index, ((_, port), where, primary) in enumerate(zip(named, places, follows, strict=True))
    )


def _epochs(seats: Sequence[Seat]) -> list[int]:
    # Every node has its own epoch before the first MEET, replicas-to-be the lower ones. Nodes that meet with equal
    # epochs collide; one that bumps its epoch and then becomes a replica is shown as an empty primary for ever by
    # the peers that kept the bumped epoch ("Ignore stale message", clusterProcessPacket in cluster_legacy.c).
    replicas, primaries = count(1), count(1 + sum(seat.primary is not None for seat in seats))
    return [next(primaries if seat.primary is None else replicas) for seat in seats]


def _finish(
    seat: Seat, name: str, addresses: NodeAddresses, epoch: int, settings: tuple[tuple[str, str], ...] = ()
) -> PlannedNode:
    return PlannedNode(
        name=name,
        index=seat.index,
        role="primary" if seat.primary is None else "replica",
        slots=seat.slots,
        primary=seat.primary,
        host=seat.host,
        zone=seat.zone,
        epoch=epoch,
        addresses=addresses,
        settings=settings,
    )


CA_FILE = "ca.crt"
CERTIFICATE_FILE = "node.crt"
KEY_FILE = "node.key"


def _port_settings(port: int, *, tls: bool) -> dict[str, str]:
    """The data port; files are beside the configuration, where the server works (``dir``)."""
    if not tls:
        return {"port": str(port)}
    return {
        "port": "0",
        "tls-port": str(port),
        "tls-ca-cert-file": CA_FILE,
        "tls-cert-file": CERTIFICATE_FILE,
        "tls-key-file": KEY_FILE,
        "tls-replication": "yes",
        "tls-cluster": "yes",
        # Clients are known by their password; nodes show each other their certificates in any case.
        "tls-auth-clients": "no",
    }


def _process_settings(name: str, addresses: NodeAddresses) -> dict[str, str]:
    return {
        # Loopback only: a server without a password must not be reachable from the network. Protected mode would
        # refuse what is not loopback, which nothing here can be; it is off so that it is never the odd difference
        # between a node in a container and one that is a process.
        "bind": addresses.control.host,
        "dir": f"${{folder}}/{name}",
        "logfile": f"${{folder}}/{name}/server.log",
    }


def _container_settings(reached: Reach) -> dict[str, str]:
    return {
        # All interfaces of the container; who reaches those is decided by its network and by what is published.
        # Protected mode would refuse every node and client that is not in the same container.
        "bind": "0.0.0.0",  # noqa: S104 - see above
        "dir": DATA_FOLDER,
        # The engine keeps what is written to stdout.
        "logfile": "",
        **dict(reached.settings),
    }


def _settings(
    spec: ClusterSpec, server: ServerInfo, name: str, zone: str, decided: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    found = {
        **decided,
        "protected-mode": "no",
        "cluster-enabled": "yes",
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": NODE_TIMEOUT,
        "appendonly": "yes",
        "daemonize": "no",
    }
    if server.has("cluster-announce-human-nodename"):
        found["cluster-announce-human-nodename"] = name
    if zone and server.has("availability-zone"):
        found["availability-zone"] = zone
    return tuple({**found, **spec.settings}.items())


def _zone(spec: ClusterSpec, host: Host, index: int) -> str:
    return spec.zones[index % len(spec.zones)] if spec.zones else host.zone


def _arithmetic(spec: ClusterSpec, counts: Sequence[int]) -> str:
    """``5 nodes = 2 primaries + 2 replicas + 1 extra replica``."""
    even = len(counts) * spec.replicas
    return _sum_text(spec.nodes, len(counts), even, spec.nodes - len(counts) - even)


def _sum_text(nodes: int, primaries: int, replicas: int, extra: int = 0) -> str:
    parts = [plural(primaries, "primary", "primaries")]
    if replicas:
        parts.append(plural(replicas, "replica"))
    if extra:
        parts.append(plural(extra, "extra replica"))
    return f"{plural(nodes, 'node')} = {' + '.join(parts)}"


def _warnings(spec: ClusterSpec, site: Site, primaries: int, replicas: int) -> tuple[str, ...]:
    warnings = _quorum_warning(primaries, replicas)
    warnings += tuple(
        f"{key} {spec.settings[key]} {why}"
        for key, why in DANGEROUS_SETTINGS.items()
        if spec.settings.get(key, "no") not in ("no", "")
    )
    if spec.zones and not site.server.has("availability-zone"):
        warnings += (f"{site.server} has no availability-zone setting: zones guide the placement only",)
    return warnings


def _quorum_warning(primaries: int, replicas: int) -> tuple[str, ...]:
    if primaries >= 3:
        return ()
    enough = 3 * (replicas + 1)
    if replicas == 0:
        return (f"no quorum survives the loss of one of fewer than 3 primaries; use {enough} nodes or more for that",)
    count = "1 primary cannot" if primaries == 1 else f"{primaries} primaries cannot"
    lost = "it" if primaries == 1 else "one"
    return (f"{count} elect a successor when {lost} is lost; use {enough} nodes or more for that",)


def _server_detail(node: PlannedNode) -> str:
    what = f"slots {slot_math.format_ranges(node.slots)}" if node.slots else "replica"
    return f"{node.addresses.host}, bus {node.addresses.bus_port}, {what}"
