"""Labels of the engine's objects <-> records: identity and constants only, the same that `cluster.json` holds.

The network carries the whole record. Every container and every volume carries the cluster's part and its own, so that a
cluster is still known whose network, or whose containers, too, were pruned away while it was stopped.

Labels of what exists cannot be changed. Where members of a cluster were, its record is on a volume of its own, which
holds nothing and goes before the network's; each change makes another one, with the next number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bootstrap.planning.plan import Plan, PlannedNode, fewest_replicas
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
"""The record: on a network, and on a volume that renews it, the whole, elsewhere all but its nodes."""
GENERATION = "valkey-bootstrap.generation"
"""The number of a volume that renews the record, on such volumes only: the highest one counts."""

Labels = Mapping[str, str]


def network_labels(plan: Plan, *, created_at: str, owner: dict[str, Any]) -> dict[str, str]:
    """The labels of a cluster's network; a volume that renews its record has its number beside them."""
    document = json.loads(dump_record(plan, created_at=created_at, owner=owner))
    return {CLUSTER: plan.name, RECORD: _compact(document)}


def renewal_name(cluster: str, generation: int) -> str:
    """The volume that renews a record; no volume of a node is called so."""
    return f"valkey-bootstrap.record.{cluster}.{generation}"


def generation_of(labels: Labels) -> int:
    """The number of a volume that renews a record.

    Raises:
        ValueError: it is none.
    """
    return int(labels.get(GENERATION, ""))


def node_labels(network: Labels, node: PlannedNode) -> dict[str, str]:
    """The labels of a node's container and volume, for a network with these labels."""
    document = json.loads(network[RECORD])
    del document["nodes"]
    member = _compact(node_document(node))
    return {CLUSTER: network[CLUSTER], NODE: node.name, MEMBER: member, RECORD: _compact(document)}


def read_record(
    network: Labels | None, members: Sequence[Labels], *, runtime: str, renewals: Sequence[Labels] = ()
) -> Record:
    """The record of a cluster: the latest, or without one its network's, or what its nodes have.

    Args:
        network: the labels of its network, None without one.
        members: those of its containers and volumes, by node.
        runtime: the kind of runtime.
        renewals: those of the volumes that renew its record.

    Raises:
        ValueError: labels that this version cannot read.
    """
    if renewals:
        text = max(renewals, key=generation_of).get(RECORD, "")
        found = load_record(text, runtime=runtime, folder="")
    elif network is not None:
        found = _with_newcomers(network.get(RECORD, ""), members, runtime)
    else:
        found = _of_members(members, runtime)
    return replace(found, orphan=daemons.owner_gone(found.owner))


def _with_newcomers(text: str, members: Sequence[Labels], runtime: str) -> Record:
    """What a network says, and nodes that came later: the volume that knew of them is gone."""
    record = load_record(text, runtime=runtime, folder="")
    known = {node.name for node in record.nodes}
    new = [_member(labels) for labels in members if MEMBER in labels and labels.get(NODE) not in known]
    if not new:
        return record
    document = json.loads(text)
    return _seated(document, [*document["nodes"], *new], runtime)


def _of_members(members: Sequence[Labels], runtime: str) -> Record:
    document = json.loads(members[0].get(RECORD, "null"))
    if not isinstance(document, dict):
        raise ValueError("no record in its labels")
    nodes = [_member(labels) for labels in members]
    record = load_record(json.dumps(document | {"nodes": _by_index(nodes)}), runtime=runtime, folder="")
    counted = record.spec.get("nodes")
    if record.seated or (isinstance(counted, int) and any(node.index >= counted for node in record.nodes)):
        return _seated(document, nodes, runtime)
    return record


def _seated(document: Mapping[str, Any], nodes: Sequence[dict[str, Any]], runtime: str) -> Record:
    """The record of a cluster with other members than it was created with, put together of what each of them says."""
    # Nodes of older versions do not say whom they follow: then it is known what there is, but not what it should be.
    seated = all("primary" in node for node in nodes)
    text = json.dumps({**document, "nodes": _by_index(nodes), "seated": seated})
    record = load_record(text, runtime=runtime, folder="")
    if not seated:
        return record
    fewest, asked = fewest_replicas({node.name: node.primary for node in record.nodes}), record.spec.get("replicas")
    replicas = min(asked, fewest) if isinstance(asked, int) else fewest
    return replace(record, spec={**record.spec, "nodes": len(nodes), "replicas": replicas, "extra_replica_of": []})


def _member(labels: Labels) -> dict[str, Any]:
    node = json.loads(labels.get(MEMBER, "null"))
    if not isinstance(node, dict):
        raise ValueError("no record in its labels")
    return node


def _by_index(nodes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(nodes, key=lambda node: index if isinstance(index := node.get("index"), int) else 0)


def with_states(record: Record, states: Mapping[str, tuple[bool, str]]) -> Record:
    """The record with what runs now: node name -> whether its container runs, and a detail."""

    def stated(node: NodeRecord) -> NodeRecord:
        running, detail = states.get(node.name, (False, ""))
        return replace(node, running=running, detail=detail)

    return replace(record, nodes=tuple(map(stated, record.nodes)))


def _compact(document: Any) -> str:
    return json.dumps(document, separators=(",", ":"))
