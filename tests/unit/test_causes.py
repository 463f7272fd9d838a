"""Likely causes, from what nodes said and what dialling them showed; and what servers log before they die."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bootstrap.judging.causes import diagnose
from bootstrap.judging.evidence import Contact, Dial, Evidence, Outcome, Server
from bootstrap.judging.silence import cause_in_log
from bootstrap.judging.simulation import Simulation, settle
from bootstrap.judging.views import NodeView, Silent, View
from bootstrap.planning.addressing import Address
from bootstrap.planning.placement import Place
from bootstrap.planning.plan import build_plan
from bootstrap.planning.site import Site
from bootstrap.planning.spec import ClusterSpec

PLAN = build_plan(ClusterSpec(nodes=4, replicas=1), Site.assumed())


def healthy() -> dict[str, View]:
    simulation = Simulation.of(PLAN.nodes)
    settle(PLAN, simulation)
    simulation.views()
    return dict(simulation.views())


def dial(node: str, port: str, outcome: Outcome) -> Dial:
    number = 6379 + int(node[-1])
    if port == "bus":
        return Dial(node, "bus", Address("127.0.0.1", number + 10000), "this machine", Contact(outcome))
    return Dial(node, "data", Address("127.0.0.1", number), "this machine", Contact(outcome))


def causes(evidence: Evidence) -> list[tuple[str, str]]:
    return [(finding.node, finding.cause) for finding in diagnose(evidence) if finding.level == "error"]


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    dials = tuple(dial(node.name, port, "open") for node in PLAN.nodes for port in ("data", "bus"))
    assert causes(Evidence(healthy(), dials)) == []


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("silent", "does not answer: a firewall drops what is sent there"),
        ("refused", "refuses connections: nothing listens there, or a firewall rejects"),
        ("unreachable", "cannot be routed to: no route leads there"),
    ],
)
def test_a_shut_bus_port_is_named(outcome: Outcome, words: str) -> None:
    dials = (dial("valkey3", "bus", outcome), dial("valkey3", "data", "open"))
    assert causes(Evidence(healthy(), dials)) == [], "servers of others, which are well among themselves"
    ours = Evidence(healthy(), dials, servers={"valkey3": Server("running")})
    (finding,) = [each for each in diagnose(ours) if each.level == "error"]
    assert finding.node == "valkey3"
    assert finding.cause == "bus-port-blocked"
    assert finding.text == f"its bus port 127.0.0.1:16382 {words}"
    assert finding.evidence == ("dialled from this machine",)
    assert "127.0.0.1:16382" in finding.mend


def test_a_silent_node_is_told_once() -> None:
    views = healthy() | {"valkey3": Silent("cannot be reached: connection refused")}
    dials = (dial("valkey3", "data", "refused"), dial("valkey3", "bus", "refused"), dial("valkey1", "data", "silent"))
    assert causes(Evidence(views, dials)) == [("valkey3", "silent"), ("valkey1", "data-port-blocked")]


def test_a_server_outside_of_cluster_mode() -> None:
    views = healthy() | {"valkey3": NodeView("", "valkey", (9, 1, 0), cluster_mode=False)}
    assert causes(Evidence(views)) == [("valkey3", "no-cluster-mode")]


def test_a_node_that_is_shown_wrong_and_a_link_that_is_down() -> None:
    views = healthy()
    third = views["valkey3"]
    assert isinstance(third, NodeView)
    for name in ("valkey0", "valkey1"):
        view = views[name]
        assert isinstance(view, NodeView)
        wrong = replace(view.peers[third.id], flags=frozenset({"master"}), primary=None, epoch=0)
        views[name] = replace(view, peers={**view.peers, third.id: wrong})
    assert causes(Evidence(views)) == [("valkey3", "views-differ")]
    views["valkey3"] = replace(third, link="down")
    assert causes(Evidence(views)) == [("valkey3", "replication-down")], "which may well be why"


def warnings(evidence: Evidence) -> list[tuple[str, str]]:
    return [(finding.node, finding.cause) for finding in diagnose(evidence) if finding.level == "warning"]


def test_a_replica_on_the_machine_of_its_primary() -> None:
    pairs = {node.name: node.primary for node in PLAN.nodes if node.primary}
    replica, primary = next(iter(pairs.items()))
    apart = {node.name: Place("a" if node.role == "primary" else "b") for node in PLAN.nodes}
    assert (replica, "shares-host") not in warnings(Evidence(healthy(), places=apart))
    together = {**apart, replica: apart[primary]}
    assert (replica, "shares-host") in warnings(Evidence(healthy(), places=together))
    one_machine = dict.fromkeys(apart, Place("a"))
    assert (replica, "shares-host") not in warnings(Evidence(healthy(), places=one_machine)), "there is no other"


def test_what_no_rule_explains_is_told_all_the_same() -> None:
    views = healthy() | {"valkey2": Silent("answers BUSY running a script", "busy")}
    assert causes(Evidence(views)) == [("valkey2", "silent")]
    views = healthy()
    first = views["valkey0"]
    assert isinstance(first, NodeView)
    views["valkey0"] = replace(first, state="fail")
    assert causes(Evidence(views)) == [("valkey0", "not-ok")]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (
            "Warning: Could not create server TCP listening socket 127.0.0.1:7000: bind: Address already in use",
            "port-taken",
        ),
        ("Can't open or create append-only dir appendonlydir: No space left on device", "disk-full"),
        ("Can't chdir to '/srv/x': Permission denied", "permission"),
        ("Can't open the log file: Read-only file system", "read-only"),
        ("*** FATAL CONFIG FILE ERROR (Version 9.1.2) ***", "bad-setting"),
        ("Unrecoverable error: corrupted cluster config file.", "nodes-conf"),
        ("Bad file format reading the append only file appendonly.aof.1.incr.aof", "append-only"),
        ("Ready to accept connections tcp", "died"),
        ("", "died"),
    ],
)
def test_causes_of_death(line: str, cause: str) -> None:
    found, words = cause_in_log(f"1:M 23 Nov 2026 10:00:00.000 * Before\n1:M 23 Nov 2026 10:00:00.001 # {line}\n")
    assert found == cause
    assert words
