"""Roles come home by failovers that the nodes themselves allow, one at a time."""

from __future__ import annotations

import pytest

from bootstrap import ClusterSpec, Site
from bootstrap.judging.agreement import agree
from bootstrap.judging.homecoming import homeward
from bootstrap.judging.simulation import Simulation, settle
from bootstrap.judging.steps import Failover, Replicate
from bootstrap.planning.plan import Plan, build_plan


def formed(nodes: int = 7) -> tuple[Plan, Simulation]:
    spec = ClusterSpec(nodes=nodes, replicas=1, runtime="process")
    plan = build_plan(spec, Site.assumed(spec))
    simulation = Simulation.of(plan.nodes)
    settle(plan, simulation)
    return plan, simulation


def bring_home(plan: Plan, simulation: Simulation) -> int:
    """How many rounds it took."""
    for rounds in range(20):
        views = simulation.views()
        steps = homeward(plan.nodes, views)
        if not steps:
            agreement = agree(views)
            assert agreement.healthy, agreement.doubts
            assert agreement.layout == plan.layout
            return rounds
        assert sum(isinstance(step, Failover) for step in steps) <= 1
        for step in steps:
            simulation.run(step)
        simulation.gossip()
    pytest.fail("it never ended")


def successor(plan: Plan, primary: str) -> str:
    return next(node.name for node in plan.nodes if node.primary == primary)


def test_nothing_is_done_at_home() -> None:
    plan, simulation = formed()
    assert homeward(plan.nodes, simulation.views()) == ()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_primary_leads_again(count: int) -> None:
    plan, simulation = formed()
    for node in plan.primaries[:count]:
        simulation.fail_over(successor(plan, node.name))
    simulation.gossip()
    assert agree(simulation.views()).layout != plan.layout
    assert bring_home(plan, simulation) == count


def test_a_replica_that_moved_follows_its_own_primary_again() -> None:
    plan, simulation = formed()
    one, other = plan.primaries[:2]
    simulation.replicate(successor(plan, one.name), simulation.nodes[other.name].id)
    simulation.gossip()
    steps = homeward(plan.nodes, simulation.views())
    assert steps == (Replicate(successor(plan, one.name), one.name, simulation.nodes[one.name].id),)


def test_one_that_leads_elsewhere_is_left_until_it_was_taken_over_from() -> None:
    plan, simulation = formed()
    one, other = plan.primaries[:2]
    # The replica of the first takes over from the second.
    stranger = successor(plan, one.name)
    simulation.replicate(stranger, simulation.nodes[other.name].id)
    simulation.gossip()
    simulation.fail_over(stranger)
    simulation.gossip()
    assert homeward(plan.nodes, simulation.views()) == (Failover(other.name),)
    simulation.take_over(other.name)
    simulation.gossip()
    assert homeward(plan.nodes, simulation.views()) == (Replicate(stranger, one.name, simulation.nodes[one.name].id),)


def test_one_that_does_not_run_is_not_asked() -> None:
    plan, simulation = formed(2)
    first, second = plan.nodes
    assert second.primary == first.name
    simulation.fail_over(second.name)
    simulation.gossip()
    simulation.set_up(first.name, up=False)
    assert homeward(plan.nodes, simulation.views()) == ()
