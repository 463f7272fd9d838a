"""Each reason why nodes do not tell one healthy story, made by changing one thing in a story that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bootstrap.judging.agreement import Doubt, agree, conforms, summarize, taken_over
from bootstrap.judging.simulation import Simulation, settle
from bootstrap.judging.views import NodeView, Peer, Silent, View
from bootstrap.planning.addressing import Address
from bootstrap.planning.layout import Layout, Shard, make_layout
from bootstrap.planning.plan import build_plan
from bootstrap.planning.site import Site
from bootstrap.planning.spec import ClusterSpec

PLAN = build_plan(ClusterSpec(nodes=4, replicas=1), Site.assumed(ClusterSpec(runtime="process")))
Views = dict[str, View]


def healthy() -> Views:
    simulation = Simulation.of(PLAN.nodes)
    settle(PLAN, simulation)
    simulation.views()
    return dict(simulation.views())


def node(views: Views, name: str) -> NodeView:
    view = views[name]
    assert isinstance(view, NodeView)
    return view


def change(views: Views, name: str, **fields: Any) -> None:
    views[name] = replace(node(views, name), **fields)


def change_peer(views: Views, name: str, about: str, **fields: Any) -> Peer:
    view = node(views, name)
    peer = replace(view.peers[node(views, about).id], **fields)
    change(views, name, peers={**view.peers, peer.id: peer})
    return peer


def drop_peer(views: Views, name: str, about: str) -> None:
    gone = node(views, about).id
    change(views, name, peers={each: peer for each, peer in node(views, name).peers.items() if each != gone})


def test_a_healthy_cluster_gives_the_planned_layout() -> None:
    found = agree(healthy())
    assert found.healthy
    assert found.layout == PLAN.layout
    assert found.by_node() == {}
    assert summarize(found, 4) == ""


def silence(views: Views) -> None:
    views["valkey3"] = Silent("cannot be reached: connection refused")


def leave_cluster_mode(views: Views) -> None:
    change(views, "valkey3", cluster_mode=False)


def unite(views: Views) -> None:
    views["valkey3"] = views["valkey2"]


def forget(views: Views) -> None:
    drop_peer(views, "valkey0", "valkey3")


def meet_a_stranger(views: Views) -> None:
    view = node(views, "valkey0")
    stranger = replace(view.peers[node(views, "valkey1").id], id="e" * 40)
    change(views, "valkey0", peers={**view.peers, stranger.id: stranger})


def shake_hands(views: Views) -> None:
    change_peer(views, "valkey0", "valkey3", flags=frozenset({"handshake"}), connected=False)


def suspect(views: Views) -> None:
    change_peer(views, "valkey0", "valkey3", flags=frozenset({"slave", "fail?"}))


def disconnect(views: Views) -> None:
    change_peer(views, "valkey0", "valkey3", connected=False)


def believe_in_a_primary(views: Views) -> None:
    change_peer(views, "valkey0", "valkey3", flags=frozenset({"master"}), primary=None)


def believe_in_fewer_slots(views: Views) -> None:
    change_peer(views, "valkey0", "valkey1", slots=((8192, 16382),))


def say_fail(views: Views) -> None:
    change(views, "valkey2", state="fail")


def open_a_slot(views: Views) -> None:
    change_peer(views, "valkey1", "valkey1", open_slots=("[93-<-abc]",))


def lose_the_link(views: Views) -> None:
    change(views, "valkey3", link="down")


def hide(views: Views) -> None:
    listed = {each: at for each, at in node(views, "valkey0").listed.items() if each != node(views, "valkey3").id}
    change(views, "valkey0", listed=listed)


def lose_slots(views: Views) -> None:
    for name in views:
        change_peer(views, name, "valkey1", slots=((8192, 16000),))


def claim_slots_twice(views: Views) -> None:
    for name in views:
        change_peer(views, name, "valkey1", slots=((8190, 16383),))


CASES: list[tuple[Callable[[Views], None], str, str, str, str]] = [
    (silence, "valkey3", "silent", "cannot be reached: connection refused", "valkey3 not answering"),
    (leave_cluster_mode, "valkey3", "mode", "is not in cluster mode", "valkey3 not answering"),
    (unite, "valkey3", "identity", "has the same node id as valkey2", "knows a node of another cluster"),
    (forget, "valkey0", "unknown", "does not know valkey3", "3/4 nodes know all 4"),
    (
        meet_a_stranger,
        "valkey0",
        "stranger",
        "knows a node of another cluster or a lost one: eeeeeeee",
        "valkey0: knows",
    ),
    (shake_hands, "valkey0", "link", "is in handshake with 127.0.0.1:6382", "3/4 nodes know all 4"),
    (suspect, "valkey0", "flag", "flags valkey3 as fail?", "valkey0: flags valkey3 as fail?"),
    (disconnect, "valkey0", "link", "has no link to valkey3", "3/4 nodes know all 4"),
    (
        believe_in_a_primary,
        "valkey0",
        "belief",
        "shows valkey3 as an empty primary, which calls itself a replica of valkey0",
        "valkey3 not yet seen in its role by all",
    ),
    (believe_in_fewer_slots, "valkey0", "belief", "shows valkey1 as a primary of 8192-16382", "valkey1 not yet seen"),
    (say_fail, "valkey2", "state", "cluster_state is fail", "3/4 nodes say ok"),
    (open_a_slot, "valkey1", "open", "has open slots [93-<-abc]", "has open slots"),
    (lose_the_link, "valkey3", "replication", "replication link is down", "valkey3 link down"),
    (hide, "valkey0", "hidden", "does not list replica valkey3 in CLUSTER SLOTS", "valkey3 not yet in CLUSTER SLOTS"),
    (lose_slots, "", "coverage", "no primary has slots 16001-16383", "no primary has slots 16001-16383"),
    (claim_slots_twice, "", "coverage", "valkey0 and valkey1 both claim slots 8190-8191", "slots 8190-8191"),
]


@pytest.mark.parametrize(("damage", "who", "kind", "text", "summary"), CASES)
def test_one_change_is_one_doubt(damage: Callable[[Views], None], who: str, kind: str, text: str, summary: str) -> None:
    views = healthy()
    damage(views)
    found = agree(views)
    assert not found.healthy
    doubts = [doubt for doubt in found.doubts if doubt.kind == kind]
    assert [doubt.node for doubt in doubts] == [who]
    assert doubts[0].text.startswith(text)
    assert text in found.by_node()[who or "cluster"]
    assert summary in summarize(found, 4)


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [(case[0], {case[2]}) for case in CASES if case[0] not in (silence, leave_cluster_mode, unite, shake_hands)]
    # Who cannot be seen has an id that nobody can name: the others' word of it is no doubt, and nor are its slots.
    + [(silence, {"silent"}), (leave_cluster_mode, {"mode"})]
    + [(unite, {"identity", "stranger"}), (shake_hands, {"unknown", "link"})],
)
def test_no_other_doubts_come_with_it(damage: Callable[[Views], None], kinds: set[str]) -> None:
    views = healthy()
    damage(views)
    assert {doubt.kind for doubt in agree(views).doubts} == kinds


ANNOUNCED = {each.name: Address("me.lan", each.addresses.host.port) for each in PLAN.nodes}


def announcing(views: Views, address: Address | None = None, *, by: str = "", about: str = "") -> Views:
    """Views that send clients where they should; one of them sends them elsewhere for one node."""
    names = {node(views, name).id: name for name in views}
    for name in list(views):
        listed = {each: ANNOUNCED[names[each]] for each in node(views, name).listed}
        if name == by and address is not None:
            listed[node(views, about).id] = address
        change(views, name, listed=listed)
    return views


def test_clients_are_sent_where_it_was_announced() -> None:
    assert agree(announcing(healthy()), ANNOUNCED).healthy
    assert agree(announcing(healthy())).healthy


@pytest.mark.parametrize(
    "address", [Address("172.28.0.5", 6382), Address("me.lan", 7000), Address("", 7000), Address("127.0.0.1", 6382)]
)
@pytest.mark.parametrize("by", ["valkey0", "valkey3"])
def test_clients_that_are_sent_elsewhere_are_a_doubt(address: Address, by: str) -> None:
    views = announcing(healthy(), address, by=by, about="valkey3")
    found = agree(views, ANNOUNCED)
    text = f"sends clients for valkey3 to {address} instead of me.lan:6382"
    assert found.doubts == (Doubt(by, "address", text, "valkey3"),)
    assert found.by_node() == {by: text}
    assert summarize(found, 4) == f"{by}: {text}"
    assert found.layout == PLAN.layout
    assert agree(views).healthy, "what was not decided cannot be wrong"
    only_others = {name: where for name, where in ANNOUNCED.items() if name != "valkey3"}
    assert agree(views, only_others).healthy


def test_as_you_came_is_the_right_way() -> None:
    """A node says so of itself before another one has told it its address."""
    views = announcing(healthy(), Address("", 6382), by="valkey3", about="valkey3")
    assert agree(views, ANNOUNCED).healthy


def test_every_node_that_misleads_is_told() -> None:
    views = healthy()
    found = agree(views, ANNOUNCED)
    assert {doubt.kind for doubt in found.doubts} == {"address"}
    assert {(doubt.node, doubt.about) for doubt in found.doubts} == {(one, other) for one in views for other in views}


def test_there_is_no_layout_while_a_replica_follows_nobody_known() -> None:
    views = healthy()
    for name in views:
        change_peer(views, name, "valkey3", primary="e" * 40)
    assert agree(views).layout is None
    views = healthy()
    del views["valkey0"]
    assert agree(views).layout is None
    assert agree({}).layout is None


def test_a_doubt_reads_with_its_node() -> None:
    assert str(Doubt("valkey0", "state", "cluster_state is fail")) == "valkey0: cluster_state is fail"
    assert str(Doubt("", "coverage", "no primary has slot 1")) == "no primary has slot 1"


def layout(*shards: tuple[str, tuple[int, int] | None, str]) -> Layout:
    return make_layout(Shard(p, (pair,) if pair else (), tuple(replicas.split())) for p, pair, replicas in shards)


TARGET = layout(("a", (0, 8191), "c"), ("b", (8192, 16383), "d"))


@pytest.mark.parametrize(
    ("found", "exact", "shape"),
    [
        (TARGET, (), ()),
        (
            # A replica took over from its primary.
            layout(("c", (0, 8191), "a"), ("b", (8192, 16383), "d")),
            (),
            (),
        ),
        (
            layout(("a", (0, 8191), "d"), ("b", (8192, 16383), "c")),
            ("a has 0-8191 and d, planned is 0-8191 and c", "b has 8192-16383 and c, planned is 8192-16383 and d"),
            (),
        ),
        (
            layout(("a", (0, 8191), "c d"), ("b", (8192, 16383), "")),
            (
                "a has 0-8191 and c, d, planned is 0-8191 and c",
                "b has 8192-16383 and no replicas, planned is 8192-16383 and d",
            ),
            ("1 primary with 0 replicas and 1 primary with 2 replicas instead of 2 primaries with 1 replica",),
        ),
        (
            layout(("a", (0, 8191), "c"), ("b", (8192, 16000), "d")),
            ("b has 8192-16000 and d, planned is 8192-16383 and d",),
            ("16001 slots covered instead of 16384",),
        ),
        (
            layout(("a", (0, 8191), "c"), ("b", (8192, 16383), "d"), ("e", None, "")),
            ("e has no slots and no replicas, planned is a replica",),
            ("5 nodes instead of 4",),
        ),
    ],
)
def test_conforming_exactly_and_by_shape(found: Layout, exact: tuple[str, ...], shape: tuple[str, ...]) -> None:
    assert conforms(found, TARGET, exact=True) == exact
    assert conforms(found, TARGET, exact=False) == shape


def test_who_took_over_from_whom() -> None:
    assert taken_over(TARGET, TARGET) == {}
    assert taken_over(layout(("c", (0, 8191), "a"), ("b", (8192, 16383), "d")), TARGET) == {"a": "c"}
