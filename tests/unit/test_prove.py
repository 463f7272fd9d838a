"""Who dials whom from inside the network when a cluster is proven."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.formation.prove import dial_commands, inside_dials, proof_commands
from bootstrap.planning.addressing import Address
from bootstrap.planning.layout import Shard, make_layout
from bootstrap.planning.plan import Plan, build_plan
from bootstrap.planning.site import Engine, Host, Resolved, ServerInfo, Site
from bootstrap.planning.slots import key_slot
from bootstrap.planning.spec import ClusterSpec

SITE = Site(
    "docker",
    (Host("vm"),),
    ServerInfo("valkey", (9, 1, 0), "image"),
    engine=Engine("local", "28.0.0"),
    names={"me.lan": Resolved("127.0.0.1", "loopback")},
)


def plan(site: Site = SITE, **asked: Any) -> Plan:
    return build_plan(ClusterSpec(**asked), site)


@pytest.mark.parametrize("asked", [{"announce": "fixed-address"}, {"announce": "gateway"}, {"announce_host": "me.lan"}])
@settings(deadline=None, max_examples=50)
@given(nodes=st.integers(1, 40), replicas=st.integers(0, 3))
def test_every_node_is_dialled_once_and_by_another(asked: dict[str, Any], nodes: int, replicas: int) -> None:
    planned = plan(nodes=max(nodes, replicas + 1), replicas=replicas, **asked)
    found = inside_dials(planned, planned.layout)
    primaries = {node.name for node in planned.primaries}
    assert found.keys() <= primaries, "only who has slots has a key to send"
    dialled = Counter(name for targets in found.values() for name, _ in targets)
    # A single primary can dial its replicas, and is dialled by nobody.
    alone = primaries if len(primaries) == 1 else set()
    assert dialled == Counter({node.name for node in planned.nodes} - alone)
    announced = {node.name: node.addresses.announced for node in planned.nodes}
    for source, targets in found.items():
        assert source not in dict(targets)
        assert all(address == announced[name] for name, address in targets)
    if len(primaries) > 1:
        # Side by side they would wait for each other: one after the other, so none has much more to do than another.
        shares = [len(found.get(name, [])) for name in primaries]
        assert max(shares) <= 2 * len(planned.nodes) / len(primaries) + 1


@pytest.mark.parametrize("asked", [{"announce": "client-address"}, {"announce": "same-port"}])
def test_nobody_is_dialled_where_clients_are_on_the_host_only(asked: dict[str, Any]) -> None:
    planned = plan(**asked)
    assert inside_dials(planned, planned.layout) == {}


def test_processes_are_not_dialled() -> None:
    spec = ClusterSpec(runtime="process")
    planned = build_plan(spec, Site.assumed(spec))
    assert inside_dials(planned, planned.layout) == {}


def test_roles_that_moved_decide_who_dials() -> None:
    planned = plan(nodes=4)
    moved = make_layout([
        Shard("valkey2", ((0, 8191),), ("valkey0",)),
        Shard("valkey1", ((8192, 16383),), ("valkey3",)),
        Shard("valkey4", ()),
    ])  # fmt: skip
    found = inside_dials(planned, moved)
    assert found.keys() == {"valkey1", "valkey2"}
    assert "valkey2" in dict(found["valkey1"])
    assert "valkey1" in dict(found["valkey2"])


def test_a_dial_sends_a_key_of_the_source_and_takes_it_away() -> None:
    ((_, key, _),) = [each for each in proof_commands(((5461, 5461),)) if each[0] == "SET"]
    assert key_slot(key) == 5461
    words = [each[0] for each in dial_commands(key, Address("valkey0", 6379))]
    assert words == ["SET", "MIGRATE", "DEL"]
    migrate = dial_commands(key, Address("172.28.0.2", 6379))[1]
    assert migrate[:4] == ("MIGRATE", "172.28.0.2", "6379", key)
    assert migrate[-1] == "COPY", "the key stays where it is"
