"""What is told when the time has run out."""

from __future__ import annotations

from bootstrap import ClusterSpec, Site
from bootstrap.formation.reconcile import not_converged
from bootstrap.judging.simulation import Simulation, settle
from bootstrap.planning.plan import Plan, build_plan


def planned() -> tuple[Plan, Simulation]:
    spec = ClusterSpec(nodes=3, replicas=0, runtime="process")
    plan = build_plan(spec, Site.assumed(spec))
    return plan, Simulation.of(plan.nodes)


def test_what_is_missing_is_told_by_node() -> None:
    plan, simulation = planned()
    error = not_converged(
        plan, simulation.views(), seconds=1.5, causes={"valkey1": "its bus port is shut"}, hint="open it"
    )
    assert str(error) == '"valkey" was not ready after 1.5 s: valkey1: its bus port is shut'
    assert error.nodes["valkey1"].startswith("its bus port is shut; ")
    assert error.hint == "open it"


def test_a_cluster_that_was_only_late_is_told_as_such() -> None:
    plan, simulation = planned()
    settle(plan, simulation)
    error = not_converged(plan, simulation.views(), seconds=1.5, causes={}, hint="")
    assert str(error) == '"valkey" was not ready after 1.5 s: by now every node agrees'
    assert "--timeout" in error.hint
