"""How fast servers are made to talk, and when the next look is worth its price."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bootstrap.judging.agreement import agree
from bootstrap.judging.pace import (
    BRISK,
    BRISK_IN_CONTAINERS_UP_TO,
    BRISK_UP_TO,
    CALM,
    SLOW_SECONDS,
    Glance,
    pace_for,
    read_glance,
    ready_to_settle,
    slower,
    speakers,
    strained,
    worth_a_look,
)
from bootstrap.judging.simulation import Simulation, settle
from bootstrap.judging.views import NodeView, Silent, Views
from bootstrap.planning.plan import build_plan
from bootstrap.planning.site import Site
from bootstrap.planning.spec import ClusterSpec

PLAN = build_plan(ClusterSpec(nodes=4, replicas=1), Site.assumed())
DONE = Glance(known=4, ok=True, link="")
UP = replace(DONE, link="up")


def formed() -> dict[str, NodeView]:
    simulation = Simulation.of(PLAN.nodes)
    settle(PLAN, simulation)
    views = simulation.views()
    return {name: view for name, view in views.items() if isinstance(view, NodeView)}


def seen_wrong(views: dict[str, NodeView], by: str, about: str, **wrong: object) -> dict[str, NodeView]:
    """One node has a wrong idea of another."""
    peers = dict(views[by].peers)
    peer = peers[views[about].id]
    peers[peer.id] = replace(peer, **wrong)  # type: ignore[arg-type]
    return {**views, by: replace(views[by], peers=peers)}


def test_few_nodes_are_brisk_and_many_are_calm() -> None:
    assert [pace_for(count) for count in (3, BRISK_UP_TO, BRISK_UP_TO + 1, 200)] == [BRISK, BRISK, CALM, CALM]


def test_servers_that_cannot_be_told_to_ping_get_a_timeout_that_grows() -> None:
    timeouts = [pace_for(count, pings=False).timeout for count in (6, 13, 49, 101)]
    assert timeouts == sorted(set(timeouts))
    assert CALM.timeout > timeouts[-1]


def test_under_strain_it_gets_slower_and_never_without_end() -> None:
    assert slower(BRISK) == CALM
    assert slower(CALM) is None
    pace = pace_for(6, pings=False)
    timeouts = [pace.timeout]
    while (following := slower(pace)) is not None:
        pace = following
        timeouts.append(pace.timeout)
    assert timeouts == [500, 2000, 8000, 15000]
    assert pace.ping == 0


def test_slow_answers_and_failing_peers_are_a_strain() -> None:
    views = formed()
    assert not strained(agree(views), SLOW_SECONDS)
    assert strained(agree(views), SLOW_SECONDS + 0.01)
    flags = frozenset({"master", "fail?"})
    assert strained(agree(seen_wrong(views, "valkey1", "valkey0", flags=flags)), 0.0)


def test_nobody_has_to_speak_where_all_is_right() -> None:
    assert speakers(formed(), agree(formed())) == ()


def test_who_is_seen_wrong_has_to_speak() -> None:
    views = seen_wrong(formed(), "valkey1", "valkey0", slots=())
    views = seen_wrong(views, "valkey3", "valkey2", primary=None, flags=frozenset({"master"}))
    assert speakers(views, agree(views)) == ("valkey0", "valkey2")


def test_who_knows_too_few_has_to_speak() -> None:
    views = formed()
    peers = {key: peer for key, peer in views["valkey3"].peers.items() if key != views["valkey1"].id}
    views = {**views, "valkey3": replace(views["valkey3"], peers=peers)}
    assert speakers(views, agree(views)) == ("valkey3",)


def test_a_hidden_replica_speaks_when_it_has_an_offset_to_tell() -> None:
    views = formed()
    hidden = views["valkey2"].id
    listed = {key: where for key, where in views["valkey0"].listed.items() if key != hidden}
    views = {**views, "valkey0": replace(views["valkey0"], listed=listed)}
    assert speakers(views, agree(views)) == ("valkey2",)
    views = {**views, "valkey2": replace(views["valkey2"], offset=0)}
    assert speakers(views, agree(views)) == ()


def test_nobody_speaks_while_links_are_missing() -> None:
    views = seen_wrong(formed(), "valkey1", "valkey0", slots=())
    views = seen_wrong(views, "valkey2", "valkey3", connected=False)
    assert speakers(views, agree(views)) == ()
    assert ready_to_settle(views, agree(views)) == ()


def test_primaries_settle_when_only_their_own_word_is_missing() -> None:
    views = formed()
    late = {name: replace(view, state="fail") for name, view in views.items() if name in ("valkey0", "valkey2")}
    views = {**views, **late}
    assert ready_to_settle(views, agree(views)) == ("valkey0",)
    views = seen_wrong(views, "valkey1", "valkey3", primary=None, flags=frozenset({"master"}))
    assert ready_to_settle(views, agree(views)) == ()


def test_who_flags_a_node_that_answers_again_asks_it_with_a_low_timeout() -> None:
    views = seen_wrong(formed(), "valkey1", "valkey0", flags=frozenset({"master", "fail"}))
    assert speakers(views, agree(views)) == ("valkey1",)
    assert ready_to_settle(views, agree(views)) == ("valkey1",)
    suspected = seen_wrong(views, "valkey3", "valkey0", flags=frozenset({"master", "fail?"}))
    assert ready_to_settle(suspected, agree(suspected)) == (), "the low timeout would make it worse"


def test_containers_are_calm_sooner() -> None:
    for count in (BRISK_IN_CONTAINERS_UP_TO, BRISK_UP_TO):
        assert pace_for(count) == BRISK
    assert pace_for(BRISK_IN_CONTAINERS_UP_TO, containers=True) == BRISK
    assert pace_for(BRISK_IN_CONTAINERS_UP_TO + 1, containers=True) == CALM


def test_a_glance_of_a_server() -> None:
    cluster = "cluster_state:ok\r\ncluster_known_nodes:6\r\n"
    assert read_glance(cluster, "# Replication\r\nrole:master\r\n") == Glance(6, ok=True, link="")
    replica = "role:slave\r\nmaster_link_status:down\r\n"
    assert read_glance("", replica) == Glance(0, ok=False, link="down")
    with pytest.raises(ValueError, match="invalid literal"):
        read_glance("cluster_known_nodes:many\r\n", "")


STRANGERS: Views = {name: replace(view, peers={view.id: view.myself}) for name, view in formed().items()}
FAILING: Views = {name: replace(view, state="fail") for name, view in formed().items()}
DETACHED: Views = {name: replace(view, link="down" if view.link else "") for name, view in formed().items()}
MISTAKEN: Views = seen_wrong(formed(), "valkey1", "valkey0", slots=())


@pytest.mark.parametrize(
    ("last", "glances", "worth"),
    [
        (STRANGERS, [replace(DONE, known=3), *[DONE] * 3], False),
        (STRANGERS, [replace(DONE, ok=False)] * 4, True),
        (DETACHED, [DONE, DONE, UP, replace(UP, link="down")], False),
        (DETACHED, [replace(DONE, ok=False)] * 2 + [UP] * 2, True),
        (FAILING, [replace(DONE, ok=False), DONE, UP, UP], False),
        (FAILING, [DONE, DONE, UP, UP], True),
        (MISTAKEN, [DONE, DONE, UP, UP], True),
        ({**FAILING, "valkey0": Silent("refused")}, [None, DONE, UP, UP], True),
    ],
)
def test_a_look_is_worth_it_when_what_was_missing_may_be_there(
    last: Views, glances: list[Glance | None], worth: bool
) -> None:
    assert worth_a_look(glances, (), agree(last), replicas=2, asked="") == worth


def test_what_was_just_asked_for_is_waited_for() -> None:
    healthy = agree(formed())
    some, all_ = [DONE, DONE, UP, DONE], [DONE, DONE, UP, UP]
    assert not worth_a_look(some, (), healthy, replicas=2, asked="replicate")
    assert worth_a_look(all_, (), healthy, replicas=2, asked="replicate")
    few = [replace(DONE, known=1)] * 4
    assert not worth_a_look(few, (), healthy, replicas=2, asked="meet")
    assert worth_a_look(few, few, healthy, replicas=2, asked="meet"), "nothing moves any more"
    assert worth_a_look(some, (), healthy, replicas=2, asked="meet")
