"""Labels of the engine's objects <-> records: identity and constants only, the same that `cluster.json` holds.

The network carries the whole record. Every container and every volume carries the cluster's part and its own, so that a
cluster is still known whose network, or whose containers, too, were pruned away while it was stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bootstrap.planning.plan import Plan, PlannedNode
from bootstrap.runtimes import daemons
from bootstrap.runtimes.base import NodeRecord, Record
from bootstrap.runtimes.records import dump_record, load_record, node_document

CLUSTER = "valkey-bootstrap.cluster"
"""The cluster's name, on everything that is ours."""
NODE = "valkey-bootstrap.node"
"""The name of the node that a container or a volume belongs to."""
MEMBER = "valkey-bootstrap.member"
"""A node's part of the record, on its container and its volume."""
RECORD = "valkey-bootstrap.record"
"""The record: on a network the whole, elsewhere all but its nodes."""

Labels = Mapping[str, str]


def network_labels(plan: Plan, *, created_at: str, owner: dict[str, Any]) -> dict[str, str]:
    """The labels of a cluster's network."""
    document = json.loads(dump_record(plan, created_at=created_at, owner=owner))
    return {CLUSTER: plan.name, RECORD: _compact(document)}


def node_labels(network: Labels, node: PlannedNode) -> dict[str, str]:
    """The labels of a node's container and volume, for a network with these labels."""
    document = json.loads(network[RECORD])
    del document["nodes"]
    member = _compact(node_document(node))
    return {CLUSTER: network[CLUSTER], NODE: node.name, MEMBER: member, RECORD: _compact(document)}


def read_record(network: Labels | None, members: Sequence[Labels], *, runtime: str) -> Record:
    """The record of a cluster, from its network or, without one, from what its nodes have.

    Raises:
        ValueError: labels that this version cannot read.
    """
    if network is not None:
        text = network.get(RECORD, "")
    else:
        document = json.loads(members[0].get(RECORD, "null"))
        nodes = [json.loads(labels.get(MEMBER, "null")) for labels in members]
        if not isinstance(document, dict) or not all(isinstance(node, dict) for node in nodes):
            raise ValueError("no record in its labels")
        text = json.dumps(document | {"nodes": sorted(nodes, key=lambda node: node.get("index", 0))})
    record = load_record(text, runtime=runtime, folder="")
    return replace(record, orphan=daemons.owner_gone(record.owner))


def with_states(record: Record, states: Mapping[str, tuple[bool, str]]) -> Record:
    """The record with what runs now: node name -> whether its container runs, and a detail."""

    def stated(node: NodeRecord) -> NodeRecord:
        running, detail = states.get(node.name, (False, ""))
        return replace(node, running=running, detail=detail)

    return replace(record, nodes=tuple(map(stated, record.nodes)))


def _compact(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))
