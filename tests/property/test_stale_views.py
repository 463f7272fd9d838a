"""What is pure holds up when nodes were asked at different times, say the same again, or contradict each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bootstrap.judging.agreement import agree, conforms, summarize
from bootstrap.judging.pace import Glance, ready_to_settle, speakers, strained, worth_a_look
from bootstrap.judging.simulation import Refused, Simulation, settle
from bootstrap.judging.steps import FirstWrite, Nudge, Step, next_steps
from bootstrap.judging.views import NodeView, Peer, Silent, View, Views
from bootstrap.planning.plan import Plan, build_plan
from bootstrap.planning.site import Site
from bootstrap.planning.spec import ClusterSpec

quick = settings(deadline=None, max_examples=30)

HARMLESS = (
    "Unknown node", "Node config epoch is already non-zero", "The user can assign a config epoch only",
    "Can't replicate", "I can only replicate", "To set a master the node must be empty",
)  # fmt: skip
"""What servers refuse when they are asked for something that has been done meanwhile."""


@st.composite
def plans(draw: st.DrawFn, *, least: int = 1) -> Plan:
    share = draw(st.integers(0, 2))
    nodes = draw(st.integers(max(least, share + 1), 6))
    return build_plan(ClusterSpec(nodes=nodes, replicas=share), Site.assumed())


def history(plan: Plan) -> list[Views]:
    """What the nodes said at each moment of their formation, step by step, until they were done."""
    simulation = Simulation.of(plan.nodes)
    moments = [simulation.views()]
    for _ in range(20):
        steps = next_steps(plan.nodes, simulation.views())
        for step in steps:
            simulation.run(step)
            moments.append(simulation.views())
        moments.append(simulation.views())
        if not steps and agree(moments[-1]).healthy:
            return moments
    raise AssertionError("it does not end")


def lagging(draw: st.DataObject, plan: Plan, moments: Sequence[Views]) -> Views:
    """A look in which every node answered at another moment, and some not at all."""
    views: dict[str, View] = {}
    for node in plan.nodes:
        at = draw.draw(st.integers(0, len(moments) - 1), label=node.name)
        views[node.name] = moments[at][node.name]
    for name in draw.draw(st.sets(st.sampled_from([node.name for node in plan.nodes]), max_size=1), label="silent"):
        views[name] = Silent("does not answer in time")
    return views


def judge(plan: Plan, views: Views) -> None:
    """Every rule has an answer, and nothing is called healthy that is not."""
    agreement = agree(views, plan.announced)
    summarize(agreement, len(plan.nodes))
    for text in agreement.by_node().values():
        assert text
    if agreement.layout is not None:
        conforms(agreement.layout, plan.layout, exact=True)
    named = {*speakers(views, agreement), *ready_to_settle(views, agreement)}
    assert named <= views.keys()
    strained(agreement, 0.0)
    glances = [Glance(len(v.peers), ok=v.state == "ok", link=v.link) if isinstance(v, NodeView) else None
               for v in views.values()]  # fmt: skip
    worth_a_look(glances, glances, agreement, replicas=len(plan.replicas), asked="")


@quick
@given(plans(), st.data())
def test_views_of_different_moments_are_judged_and_never_called_healthy(plan: Plan, data: st.DataObject) -> None:
    moments = history(plan)
    views = lagging(data, plan, moments)
    judge(plan, views)
    if agree(views).healthy:
        final = moments[-1]
        # Whoever answered early must have said what it says in the end, but for what only its own word counts for.
        for name, view in views.items():
            last = final[name]
            assert isinstance(view, NodeView)
            assert isinstance(last, NodeView)
            assert (view.peers, view.state, view.link) == (last.peers, last.state, last.link)


@quick
@given(plans(), st.data())
def test_steps_for_a_stale_look_do_no_harm(plan: Plan, data: st.DataObject) -> None:
    """What is decided on an old look is refused or has no effect; the next look leads on to the planned end."""
    moments = history(plan)
    now = data.draw(st.integers(0, len(moments) - 1), label="now")
    simulation = at_moment(plan, now)
    stale = lagging(data, plan, moments[: now + 1])
    for step in next_steps(plan.nodes, stale):
        run_refusable(simulation, step)
    settle(plan, simulation)
    simulation.views()
    found = agree(simulation.views())
    assert found.healthy, found.by_node()
    assert found.layout is not None
    assert not conforms(found.layout, plan.layout, exact=True)


def at_moment(plan: Plan, now: int) -> Simulation:
    """The servers as they were at a moment of `history`."""
    simulation = Simulation.of(plan.nodes)
    done = 0
    while done < now:
        steps = next_steps(plan.nodes, simulation.views())
        if not steps:
            break
        for step in steps[: now - done]:
            simulation.run(step)
            simulation.views()
        done += len(steps) + 1
    return simulation


def run_refusable(simulation: Simulation, step: Step) -> None:
    text = HARMLESS[0]
    try:
        simulation.run(step)
    except Refused as refused:
        text = refused.text
    assert text.startswith(HARMLESS) or "is already busy" in text, (step, text)


@quick
@given(plans(least=2), st.data())
def test_a_contradiction_is_a_doubt(plan: Plan, data: st.DataObject) -> None:
    views = dict(history(plan)[-1])
    name = data.draw(st.sampled_from(sorted(views)), label="who")
    view = views[name]
    assert isinstance(view, NodeView)
    about = data.draw(st.sampled_from(sorted(view.peers)), label="about")
    peer = view.peers[about]
    wrong = data.draw(st.sampled_from(contradictions(peer, view)), label="wrong")
    assume(wrong != peer)
    views[name] = replace(view, peers={**view.peers, about: wrong})
    assert not agree(views).healthy
    judge(plan, views)


def contradictions(peer: Peer, view: NodeView) -> list[Peer]:
    other = next((key for key in view.peers if key != peer.id), None)
    role = "slave" if peer.role == "primary" else "master"
    kept = peer.flags - {"master", "slave"}
    return [
        replace(peer, slots=() if peer.slots else ((0, 5),)),
        replace(peer, flags=kept | {role}, primary=other if role == "slave" else None, slots=()),
        *([replace(peer, connected=False), replace(peer, flags=peer.flags | {"fail?"})] if peer.id != view.id else []),
    ]


@quick
@given(plans(), st.data())
def test_a_look_that_repeats_asks_for_the_same(plan: Plan, data: st.DataObject) -> None:
    views = data.draw(st.sampled_from(history(plan)), label="moment")
    assert next_steps(plan.nodes, dict(views)) == next_steps(plan.nodes, views)
    assert agree(views) == agree(dict(views))


@quick
@given(plans())
def test_only_blank_servers_of_ours_are_made_to_write(plan: Plan) -> None:
    for views in history(plan):
        for step in next_steps(plan.nodes, views):
            view = views[step.node]
            assert isinstance(view, NodeView)
            if isinstance(step, FirstWrite):
                assert view.blank
                assert (view.keys, view.functions, view.offset) == ({}, (), 0)
            if isinstance(step, Nudge):
                assert view.offset == 0
