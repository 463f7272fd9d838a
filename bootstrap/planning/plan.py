"""The plan: everything that is decided before anything is done, as data.

`build_plan` is pure: the same specification and the same site give the same plan, byte for byte. Facts that exist only
after preparation (the folder of a cluster, a gateway's address) stand in it as symbols, ``${folder}``, which the
equally pure `bind` replaces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from bootstrap.planning import slots as slot_math
from bootstrap.planning.addressing import Address, NodeAddresses, given, loopback
from bootstrap.planning.layout import Layout, Shard, make_layout
from bootstrap.planning.placement import Place, Placement, describe, place
from bootstrap.planning.ports import choose_block
from bootstrap.planning.site import Host, ServerInfo, Site
from bootstrap.planning.slots import SlotRange
from bootstrap.planning.spec import RESERVED_SETTINGS, ClusterSpec, node_name, replica_counts
from bootstrap.planning.text import plural

FORMAT_VERSION = 1
CONFIG_FILE = "valkey.conf"
Role = Literal["primary", "replica"]

_SYMBOL = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """One node as planned.

    Args:
        name: its name, unique in the cluster.
        index: its position; the first nodes are the primaries.
        role: what it starts as; failovers may change that later.
        slots: the ranges it is given, empty for a replica.
        primary: the name of the primary it replicates, None for a primary.
        host: its declared failure domain.
        zone: its zone, "" if unknown.
        epoch: the config epoch it is given before it meets any other node.
        addresses: where it is reached.
        settings: its configuration, in the order of the file.
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
        }


@dataclass(frozen=True, slots=True)
class Creation:
    """One thing that would be created: its kind (folder, server ...), its name, and what is worth knowing of it."""

    kind: str
    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A cluster as it will be made; see `as_dict` for its JSON form.

    ``arithmetic`` words how the counts come about, ``placement`` the score over the declared failure domains,
    ``assumptions`` what was not looked at.
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

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: ``format_version``, ``name``, ``runtime``, ``nodes[]`` and what led to them."""
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "runtime": self.runtime,
            "server": {"flavor": self.server.flavor, "version": ".".join(map(str, self.server.version))},
            "primaries": len(self.primaries),
            "replicas": len(self.replicas),
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


def build_plan(spec: ClusterSpec, site: Site, *, kept_base: int | None = None) -> Plan:
    """Decide everything.

    Args:
        spec: what is asked for.
        site: the facts it is planned for.
        kept_base: the base port of an existing cluster of this name, which keeps its ports.

    Raises:
        SpecError: with every problem of the specification.
        PortTaken: a strict block of ports is in use.
        Conflict: no block of ports is free.
    """
    spec.check()
    block = choose_block(spec, site) if kept_base is None else None
    base = kept_base if block is None else block.base
    assert base is not None
    hosts = [site.hosts[index % len(site.hosts)] for index in range(spec.nodes)]
    places = [Place(host.name, _zone(spec, host, index)) for index, host in enumerate(hosts)]
    counts = replica_counts(spec)
    placement = place(places, counts)
    drafts = _draft(counts, placement, [places[at] for at in placement.order])
    nodes = tuple(
        _finish(spec, site.server, draft, node_name(spec.name, draft.index), loopback(base + draft.index))
        for draft in drafts
    )
    servers = tuple(Creation("server", node.name, _server_detail(node)) for node in nodes)
    return Plan(
        spec=spec,
        server=site.server,
        runtime=site.runtime,
        nodes=_name_primaries(nodes, drafts),
        creations=(Creation("folder", spec.name, "configuration, data and logs of the servers"), *servers),
        arithmetic=_arithmetic(spec, counts),
        placement=describe(placement.score, sum(counts), len(set(hosts)), len({p.zone for p in places if p.zone})),
        warnings=tuple(filter(None, (*_warnings(spec, site, counts), block.warning if block else ""))),
        notes=tuple(filter(None, (block.note if block else "",))),
        assumptions=site.assumptions,
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
    drafts = _draft(counts, placement, [member.place for member in chosen])
    nodes = tuple(
        replace(
            _finish(spec, server, draft, str(member.address), given(member.address, member.ip, member.bus_port)),
            settings=(),
        )
        for draft, member in zip(drafts, chosen, strict=True)
    )
    hosts, zones = {m.place.host for m in members}, {m.place.zone for m in members if m.place.zone}
    return Plan(
        spec=spec,
        server=server,
        runtime="none",
        nodes=_name_primaries(nodes, drafts),
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

    def bound(key: str, value: str) -> str:
        # Only settings that the plan itself decides carry symbols; a user's value is never looked into.
        if key not in RESERVED_SETTINGS:
            return value
        return _SYMBOL.sub(lambda match: facts.values[match[1]], value)

    return replace(
        plan,
        nodes=tuple(
            replace(node, settings=tuple((key, bound(key, value)) for key, value in node.settings))
            for node in plan.nodes
        ),
    )


def render_config(node: PlannedNode) -> bytes:
    """The node's configuration file; values are quoted as the server's `sdssplitargs` reads them."""
    lines = [f"# {node.name}: written at every start; use --set to change a setting"]
    for key, value in node.settings:
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'{key} "{escaped}"')
    return ("\n".join(lines) + "\n").encode()


@dataclass(frozen=True, slots=True)
class _Draft:
    """A node before it has a name and an address."""

    index: int
    slots: tuple[SlotRange, ...]
    primary: int | None
    place: Place
    epoch: int


def _draft(counts: Sequence[int], placement: Placement, places: Sequence[Place]) -> tuple[_Draft, ...]:
    primaries, replicas = len(counts), sum(counts)
    ranges = slot_math.slot_ranges(primaries)
    # Every node has its own epoch before the first MEET, replicas-to-be the lower ones. Nodes that meet with equal
    # epochs collide; one that bumps its epoch and then becomes a replica is shown as an empty primary for ever by
    # the peers that kept the bumped epoch ("Ignore stale message", clusterProcessPacket in cluster_legacy.c).
    drafts = [_Draft(index, (ranges[index],), None, places[index], replicas + index + 1) for index in range(primaries)]
    for at, primary in enumerate(placement.primary_of):
        drafts.append(_Draft(primaries + at, (), primary, places[primaries + at], at + 1))
    return tuple(drafts)


def _finish(spec: ClusterSpec, server: ServerInfo, draft: _Draft, name: str, addresses: NodeAddresses) -> PlannedNode:
    return PlannedNode(
        name=name,
        index=draft.index,
        role="primary" if draft.primary is None else "replica",
        slots=draft.slots,
        primary=None,
        host=draft.place.host,
        zone=draft.place.zone,
        epoch=draft.epoch,
        addresses=addresses,
        settings=_settings(spec, server, name, draft.place.zone, addresses),
    )


def _name_primaries(nodes: tuple[PlannedNode, ...], drafts: Sequence[_Draft]) -> tuple[PlannedNode, ...]:
    return tuple(
        node if draft.primary is None else replace(node, primary=nodes[draft.primary].name)
        for node, draft in zip(nodes, drafts, strict=True)
    )


def _settings(
    spec: ClusterSpec, server: ServerInfo, name: str, zone: str, addresses: NodeAddresses
) -> tuple[tuple[str, str], ...]:
    decided = {
        "port": str(addresses.control.port),
        # Loopback only: a server without a password must not be reachable from the network. Protected mode would
        # refuse what is not loopback, which nothing here can be; it is off so that it is never the odd difference
        # between a node in a container and one that is a process.
        "bind": addresses.control.host,
        "protected-mode": "no",
        "cluster-enabled": "yes",
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": "5000",
        "appendonly": "yes",
        "dir": f"${{folder}}/{name}",
        "logfile": f"${{folder}}/{name}/server.log",
        "daemonize": "no",
    }
    if server.has("cluster-announce-human-nodename"):
        decided["cluster-announce-human-nodename"] = name
    if zone and server.has("availability-zone"):
        decided["availability-zone"] = zone
    return tuple({**decided, **spec.settings}.items())


def _zone(spec: ClusterSpec, host: Host, index: int) -> str:
    return spec.zones[index % len(spec.zones)] if spec.zones else host.zone


def _arithmetic(spec: ClusterSpec, counts: Sequence[int]) -> str:
    """``5 nodes = 2 primaries + 2 replicas + 1 extra replica``."""
    primaries, even = len(counts), len(counts) * spec.replicas
    parts = [plural(primaries, "primary", "primaries")]
    if even:
        parts.append(plural(even, "replica"))
    if extra := spec.nodes - primaries - even:
        parts.append(plural(extra, "extra replica"))
    return f"{plural(spec.nodes, 'node')} = {' + '.join(parts)}"


def _warnings(spec: ClusterSpec, site: Site, counts: Sequence[int]) -> tuple[str, ...]:
    warnings = _quorum_warning(len(counts), spec.replicas)
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
