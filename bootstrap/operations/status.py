"""What a cluster is now: every node's own word, what the others say of it, and every doubt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bootstrap.judging.agreement import Agreement, agree
from bootstrap.judging.views import NodeView, Peer, Views, seen
from bootstrap.operations.deployment import Deployment, Node
from bootstrap.planning.addressing import NodeAddresses
from bootstrap.planning.plan import FORMAT_VERSION, Role
from bootstrap.planning.slots import SlotRange


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One node now.

    Args:
        name, index, host, zone, addresses: its constants.
        id: its node id, "" if it could not be learned.
        role: what it calls itself; what the others call it if it is silent; None if nobody knows.
        slots: the ranges it serves.
        primary: name of the primary it replicates.
        health: ``ok``, or what is wrong with it or with its view.
    """

    name: str
    index: int
    host: str
    zone: str
    addresses: NodeAddresses
    id: str
    role: Role | None
    slots: tuple[SlotRange, ...]
    primary: str | None
    health: str

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "name": self.name,
            "index": self.index,
            "id": self.id or None,
            "role": self.role,
            "slots": [list(pair) for pair in self.slots],
            "primary": self.primary,
            "host": self.host,
            "zone": self.zone or None,
            "addresses": self.addresses.as_dict(),
            "health": self.health,
        }


@dataclass(frozen=True, slots=True)
class Status:
    """A cluster now; ``healthy`` means that every node tells the same healthy story."""

    name: str
    runtime: str
    nodes: tuple[NodeStatus, ...]
    agreement: Agreement
    user: str | None = None
    password_file: str = ""
    tls: bool = False
    ca_file: str = ""

    @property
    def healthy(self) -> bool:
        """No doubt is left."""
        return self.agreement.healthy

    def as_dict(self) -> dict[str, Any]:
        """The JSON form: that of a plan, with ``id`` and ``health`` for each node and for the cluster."""
        return {
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "runtime": self.runtime,
            "health": "ok" if self.healthy else "not ok",
            "login": {"user": self.user, "password_file": self.password_file or None} if self.user else None,
            "tls": {"ca_file": self.ca_file or None} if self.tls else None,
            "doubts": [{"node": d.node or None, "kind": d.kind, "text": d.text} for d in self.agreement.doubts],
            "nodes": [node.as_dict() for node in self.nodes],
        }


async def read_status(deployment: Deployment) -> Status:
    """Ask every node; nodes that do not answer are part of the status, not an error. Nothing is written."""
    async with deployment.clients() as clients:
        views = await clients.look()
    return make_status(deployment, views)


def make_status(deployment: Deployment, views: Views) -> Status:
    """Pure: the status that these views give."""
    agreement = agree(views, deployment.announced)
    lacking = agreement.by_node()
    nodes = seen(views)
    names = {view.id: name for name, view in nodes.items()}
    for node in deployment.nodes:
        if node.name not in nodes and (peer := _known_by_others(node, nodes)) is not None:
            names.setdefault(peer.id, node.name)
    rows = tuple(_row(node, nodes, names, lacking.get(node.name, "ok")) for node in deployment.nodes)
    kind = deployment.runtime.kind if deployment.runtime else "none"
    return Status(
        deployment.name,
        kind,
        rows,
        agreement,
        deployment.user,
        deployment.password_file,
        deployment.tls,
        deployment.ca_file,
    )


def _row(node: Node, nodes: dict[str, NodeView], names: dict[str, str], health: str) -> NodeStatus:
    view = nodes.get(node.name)
    peer = view.myself if view is not None else _known_by_others(node, nodes)
    return NodeStatus(
        name=node.name,
        index=node.index,
        host=node.host,
        zone=node.zone,
        addresses=node.addresses,
        id=peer.id if peer else "",
        role=peer.role if peer else None,
        slots=peer.slots if peer else (),
        primary=names.get(peer.primary, peer.primary[:8]) if peer and peer.primary else None,
        health=health,
    )


def _known_by_others(node: Node, nodes: dict[str, NodeView]) -> Peer | None:
    where = {(node.addresses.meet.port, node.addresses.bus_port)}
    for view in nodes.values():
        for peer in view.peers.values():
            if (peer.address.port, peer.bus_port) in where and not peer.handshake and peer.id != view.id:
                return peer
    return None
