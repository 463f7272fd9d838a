"""Likely causes, from what nodes said and what dialling them showed; and what servers log before they die."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bootstrap.judging.causes import Dial, Evidence, Finding, Outcome, cause_in_log, diagnose
from bootstrap.judging.simulation import Simulation, settle
from bootstrap.judging.views import NodeView, Silent, View
from bootstrap.planning.addressing import Address
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
        return Dial(node, "bus", Address("127.0.0.1", number + 10000), "this machine", outcome)
    return Dial(node, "data", Address("127.0.0.1", number), "this machine", outcome)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    dials = tuple(dial(node.name, port, "open") for node in PLAN.nodes for port in ("data", "bus"))
    assert diagnose(Evidence(healthy(), dials)) == ()


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("silent", "does not answer"),
        ("refused", "refuses connections"),
        ("unreachable", "cannot be routed to"),
        ("unresolvable", "cannot be resolved"),
    ],
)
def test_a_shut_bus_port_is_named(outcome: Outcome, words: str) -> None:
    (finding,) = diagnose(Evidence(healthy(), (dial("valkey3", "bus", outcome), dial("valkey3", "data", "open"))))
    assert finding.node == "valkey3"
    assert finding.cause == "bus-port-blocked"
    assert finding.text == f"bus port 127.0.0.1:16382 {words} (dialled from this machine)"
    assert "127.0.0.1:16382" in finding.hint


def test_a_silent_node_is_told_once() -> None:
    views = healthy() | {"valkey3": Silent("cannot be reached: connection refused")}
    dials = (dial("valkey3", "data", "refused"), dial("valkey3", "bus", "refused"), dial("valkey1", "data", "silent"))
    found = diagnose(Evidence(views, dials))
    assert [(finding.node, finding.cause) for finding in found] == [
        ("valkey3", "silent"),
        ("valkey1", "data-port-blocked"),
    ]
    assert found[0].text == "cannot be reached: connection refused"


def test_a_server_outside_of_cluster_mode() -> None:
    views = healthy() | {"valkey3": NodeView("", "valkey", (9, 1, 0), cluster_mode=False)}
    expected = Finding("valkey3", "no-cluster-mode", "is not in cluster mode", "start it with cluster-enabled yes")
    assert diagnose(Evidence(views)) == (expected,)


def test_a_node_that_is_shown_wrong_and_a_link_that_is_down() -> None:
    views = healthy()
    third = views["valkey3"]
    assert isinstance(third, NodeView)
    views["valkey3"] = replace(third, link="down")
    for name in ("valkey0", "valkey1"):
        view = views[name]
        assert isinstance(view, NodeView)
        wrong = replace(view.peers[third.id], flags=frozenset({"master"}), primary=None)
        views[name] = replace(view, peers={**view.peers, third.id: wrong})
    found = diagnose(Evidence(views))
    assert [(finding.node, finding.cause) for finding in found] == [
        ("valkey3", "views-differ"),
        ("valkey3", "replication-down"),
    ]
    assert found[0].text == "is shown in another role than its own by 2 nodes"


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
