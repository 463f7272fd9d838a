"""A cluster's record as JSON: what `cluster.json` holds, and how it is read back."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from typing import Any

from bootstrap.planning.addressing import Address, NodeAddresses
from bootstrap.planning.plan import Plan
from bootstrap.planning.spec import ClusterSpec
from bootstrap.runtimes.base import NodeRecord, Record

FORMAT_VERSION = 1


def identity(spec: ClusterSpec) -> dict[str, Any]:
    """The fields of a specification that make a cluster what it is; where it lives and what starts it is left out."""
    fields = asdict(spec)
    for name in ("runtime", "state_root", "min_primaries"):
        del fields[name]
    fields["zones"] = list(spec.zones)
    fields["extra_replica_of"] = [str(ref) for ref in spec.extra_replica_of]
    return fields


def differences(spec: ClusterSpec, record: Record) -> dict[str, tuple[Any, Any]]:
    """Field -> (what the record has, what is asked for), where they differ; a field left open asks for nothing."""
    asked = identity(spec)
    found = {name: (record.spec.get(name), value) for name, value in asked.items() if record.spec.get(name) != value}
    if spec.base_port in (None, "auto", record.base_port):
        found.pop("base_port", None)
    if "base_port" in found:
        found["base_port"] = (record.base_port, spec.base_port)
    # A server may be given by any path that leads to the one that is used.
    found.pop("server", None)
    if spec.server is not None and (given := shutil.which(spec.server) or spec.server) != record.server_path:
        found["server"] = (record.server_path, given)
    return found


def dump_record(plan: Plan, *, created_at: str, owner: dict[str, Any]) -> str:
    """The JSON text of a plan's record."""
    document = {
        "format_version": FORMAT_VERSION,
        "name": plan.name,
        "created_at": created_at,
        "server": {"name": str(plan.server), "path": plan.server.path},
        "base_port": plan.nodes[0].addresses.control.port,
        "spec": identity(plan.spec),
        "owner": owner,
        "nodes": [
            {
                "name": node.name,
                "index": node.index,
                "host": node.host,
                "zone": node.zone,
                "addresses": {
                    "host": str(node.addresses.host),
                    "network": str(node.addresses.network) if node.addresses.network else None,
                    "control": str(node.addresses.control),
                    "meet": str(node.addresses.meet),
                    "bus_port": node.addresses.bus_port,
                },
            }
            for node in plan.nodes
        ],
    }
    return json.dumps(document, indent=2) + "\n"


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
            spec=document["spec"],
            base_port=document["base_port"],
            nodes=tuple(_node(each) for each in document["nodes"]),
            created_at=document["created_at"],
            server=document["server"]["name"],
            server_path=document["server"]["path"],
            folder=folder,
            owner=document["owner"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a cluster's record: {error!r}") from error


def _node(document: dict[str, Any]) -> NodeRecord:
    where = document["addresses"]
    return NodeRecord(
        name=document["name"],
        index=document["index"],
        host=document["host"],
        zone=document["zone"],
        addresses=NodeAddresses(
            host=Address.parse(where["host"]),
            network=Address.parse(where["network"]) if where["network"] else None,
            control=Address.parse(where["control"]),
            meet=Address.parse(where["meet"]),
            bus_port=where["bus_port"],
        ),
    )
