"""A cluster's record as JSON: what `cluster.json` holds, and how it is read back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bootstrap.planning.addressing import Address, Announcement, NodeAddresses, ports_used
from bootstrap.planning.plan import Plan, PlannedNode, Underway
from bootstrap.planning.ports import PortUse, block_ports
from bootstrap.planning.slots import SLOTS, SlotRange
from bootstrap.planning.spec import ClusterSpec, memory_bytes
from bootstrap.planning.subnets import Network
from bootstrap.runtimes.base import NodeRecord, Record

FORMAT_VERSION = 1


OPEN: Mapping[str, tuple[Any, ...]] = {
    # Field -> the values that leave it open: such a field asks for nothing of a cluster that exists.
    "base_port": (None, "auto"),
    "server": (None,),
    "image": (None,),
    "announce": ("auto",),
    "announce_host": (None,),
    "audience": ("auto",),
    "expose": (None,),
    "user": (None,),
    "tls": (False,),
}


def identity(spec: ClusterSpec) -> dict[str, Any]:
    """The fields of a specification that make a cluster what it is; where it lives and what starts it is left out."""
    fields = asdict(spec)
    for name in ("runtime", "pull", "state_root", "min_primaries", "insecure"):
        del fields[name]
    fields["zones"] = list(spec.zones)
    fields["extra_replica_of"] = [str(ref) for ref in spec.extra_replica_of]
    return fields


def differences(spec: ClusterSpec, record: Record) -> dict[str, tuple[Any, Any]]:
    """Field -> (what the record has, what is asked for), where they differ; a field left open asks for nothing."""
    # A field that is younger than the record had its default then.
    had = {**identity(ClusterSpec()), **record.spec}
    had |= {"base_port": record.base_port}
    # A server may be given by any path that leads to the one that is used.
    had |= {"server": record.server_path, "image": record.server_path}
    if record.announcement is not None:
        had |= {"announce": record.announcement.strategy, "announce_host": record.announcement.name or None}
    asked = identity(spec)
    if spec.memory and had["memory"] and memory_bytes(spec.memory) == memory_bytes(had["memory"]):
        asked["memory"] = had["memory"]  # the same amount in other words
    if spec.server is not None:
        asked["server"] = shutil.which(spec.server) or spec.server
    return {
        name: (had[name], value)
        for name, value in asked.items()
        if had[name] != value and value not in OPEN.get(name, ())
    }


def dump_record(plan: Plan, *, created_at: str, owner: dict[str, Any]) -> str:
    """The JSON text of a plan's record."""
    document = cluster_document(plan, created_at=created_at, owner=owner)
    return json.dumps(document | {"nodes": [node_document(node) for node in plan.nodes]}, indent=2) + "\n"


def cluster_document(plan: Plan, *, created_at: str, owner: dict[str, Any]) -> dict[str, Any]:
    """A record without its nodes."""
    return {
        "format_version": FORMAT_VERSION,
        "name": plan.name,
        "created_at": created_at,
        "server": {"name": str(plan.server), "path": plan.server.path},
        "base_port": plan.base_port,
        "spec": identity(plan.spec),
        "owner": owner,
        "announcement": asdict(plan.announcement) if plan.announcement else None,
        "network": asdict(plan.network) if plan.network else None,
        "seated": plan.seated,
        "underway": asdict(plan.underway) if plan.underway else None,
    }


def node_document(node: PlannedNode) -> dict[str, Any]:
    """A node's part of a record."""
    return {
        "name": node.name,
        "index": node.index,
        "host": node.host,
        "zone": node.zone,
        "addresses": {
            "host": str(node.addresses.host),
            "network": _text(node.addresses.network),
            "control": str(node.addresses.control),
            "meet": str(node.addresses.meet),
            "bus_port": node.addresses.bus_port,
            "announced": _text(node.addresses.announced),
        },
        "primary": node.primary,
        "slots": [list(pair) for pair in node.slots],
    }


def _text(address: Address | None) -> str | None:
    return str(address) if address else None


def load_record(text: str, *, runtime: str, folder: str) -> Record:
    """Read a record.

    Raises:
        ValueError: not a record, or of a format that this version does not know.
    """
    try:
        document = json.loads(text)
        if document["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {document['format_version']} is not {FORMAT_VERSION}")
        return Record(
            name=document["name"],
            runtime=runtime,
            spec=_table(document["spec"]),
            base_port=document["base_port"],
            nodes=tuple(map(_node, _list(document["nodes"]))),
            created_at=document["created_at"],
            server=document["server"]["name"],
            server_path=document["server"]["path"],
            folder=folder,
            owner=_owner(document["owner"]),
            # Older records have none of these.
            announcement=Announcement(**made) if (made := document.get("announcement")) else None,
            network=Network(**made) if (made := document.get("network")) else None,
            seated=_truth(document.get("seated", False)),
            underway=_underway(document.get("underway")),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a cluster's record: {error!r}") from error


def newcomers(plan: Plan, record: Record) -> tuple[PlannedNode, ...]:
    """The planned nodes that a cluster's record does not have, or has at another port."""
    known = {(node.name, node.addresses.control.port) for node in record.nodes}
    return tuple(node for node in plan.nodes if (node.name, node.addresses.control.port) not in known)


def reserved_ports(records: Sequence[Record]) -> dict[int, str]:
    """Port -> the cluster of ours that it belongs to, in words."""
    return {
        port: f'the cluster "{record.name}"'
        for record in records
        for node in record.nodes
        for port in block_ports(node.addresses.control.port, 1, _ports_used(record))
    }


def _ports_used(record: Record) -> PortUse:
    return ports_used(record.announcement, publish=bool(record.spec.get("publish", True)))


def _list(document: Any) -> list[Any]:
    if not isinstance(document, list):
        raise TypeError(f"{type(document).__name__} is not a list")
    return document


def _table(document: Any) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise TypeError(f"{type(document).__name__} is not a table")
    return document


def _truth(document: Any) -> bool:
    if not isinstance(document, bool):
        raise TypeError(f"{document!r} is neither true nor false")
    return document


def _underway(document: Any) -> Underway | None:
    if document is None:
        return None
    command, leaving = document["command"], _list(document["leaving"])
    if not (isinstance(command, str) and all(isinstance(name, str) for name in leaving)):
        raise ValueError(f"no change that is underway: {document!r}")
    return Underway(command, tuple(leaving))


def _owner(document: Any) -> dict[str, Any]:
    if document and not (isinstance(document["pid"], int) and isinstance(document["started"], int | float | None)):
        raise ValueError(f"not an owner: {document!r}")
    return dict(document)


def _node(document: dict[str, Any]) -> NodeRecord:
    where = document["addresses"]
    return NodeRecord(
        name=document["name"],
        index=_number(document["index"]),
        host=document["host"],
        zone=document["zone"],
        addresses=NodeAddresses(
            host=Address.parse(where["host"]),
            network=_address(where["network"]),
            control=Address.parse(where["control"]),
            meet=Address.parse(where["meet"]),
            bus_port=where["bus_port"],
            announced=_address(where.get("announced")),
        ),
        # Older records have neither.
        primary=_name(document.get("primary")),
        slots=tuple(map(_slot_range, _list(document.get("slots", [])))),
    )


def _number(document: Any) -> int:
    if not isinstance(document, int) or isinstance(document, bool) or document < 0:
        raise ValueError(f"{document!r} is not a number")
    return document


def _name(document: Any) -> str | None:
    if not isinstance(document, str | None):
        raise TypeError(f"{document!r} is not a name")
    return document


def _slot_range(document: Any) -> SlotRange:
    bounds = tuple(map(_number, _list(document)))
    if len(bounds) != 2 or not bounds[0] <= bounds[1] < SLOTS:
        raise ValueError(f"{document!r} is not a range of slots")
    return bounds


def _address(text: str | None) -> Address | None:
    return Address.parse(text) if text else None
