"""Goals of growing and shrinking: every slot has one leader, everyone a role, and no more is changed than has to be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bootstrap.errors import Conflict
from bootstrap.planning.layout import Layout, Shard, make_layout
from bootstrap.planning.moves import THRESHOLD
from bootstrap.planning.placement import Place
from bootstrap.planning.plan import build_plan
from bootstrap.planning.scaling import (
    Standing,
    changes,
    moved,
    moves_between,
    scaled,
    successor,
    with_primaries,
    with_replicas,
    without,
)
from bootstrap.planning.site import Site
from bootstrap.planning.slots import SLOTS, count, expand, merge
from bootstrap.planning.spec import ClusterSpec, replica_counts

quick = settings(deadline=None, max_examples=60)


@st.composite
def standings(draw: st.DrawFn, *, most: int = 12, newcomers: int = 4) -> Standing:
    """Any owners of all slots, in pieces; primaries without slots; replicas of anybody; any hosts and zones."""
    number = draw(st.integers(1, most))
    names = [f"n{index}" for index in range(number)]
    primaries = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    bounds = sorted(draw(st.sets(st.integers(1, SLOTS - 1), max_size=12)))
    pieces = list(zip([0, *bounds], [*(bound - 1 for bound in bounds), SLOTS - 1], strict=True))
    owners = [draw(st.sampled_from(primaries)) for _ in pieces]
    following = {name: draw(st.sampled_from(primaries)) for name in names if name not in primaries}
    layout = make_layout(
        Shard(
            name,
            merge(expand(piece for piece, owner in zip(pieces, owners, strict=True) if owner == name)),
            tuple(replica for replica, primary in following.items() if primary == name),
        )
        for name in primaries
    )
    everyone = [f"n{index}" for index in range(number + draw(st.integers(0, newcomers)))]
    hosts = st.builds(Place, st.sampled_from(["h0", "h1", "h2"]), st.sampled_from(["", "z0", "z1"]))
    alone = draw(st.booleans())
    return Standing(layout, {name: Place(name) if alone else draw(hosts) for name in everyone})


@st.composite
def requests(draw: st.DrawFn, standing: Standing) -> tuple[list[str], list[int]]:
    """Any members of those that there are places for, and replica counts that they make up."""
    members = draw(st.lists(st.sampled_from(list(standing.places)), min_size=1, unique=True))
    members.sort(key=standing.rank)
    primaries = draw(st.integers(1, len(members)))
    counts = [0] * primaries
    for at in draw(
        st.lists(st.integers(0, primaries - 1), min_size=len(members) - primaries, max_size=len(members) - primaries)
    ):
        counts[at] += 1
    return members, counts


def newcomers_of(standing: Standing) -> list[str]:
    return [name for name in standing.places if standing.layout.shard_of(name) is None]


def made(nodes: int, replicas: int) -> Standing:
    """A cluster as it is created, with places for others beside it."""
    plan = build_plan(ClusterSpec(nodes=nodes, replicas=replicas, name="n"), Site.assumed())
    return Standing(plan.layout, {f"n{index}": Place(f"h{index}") for index in range(24)})


def slot_counts(layout: Layout) -> dict[str, int]:
    return {shard.primary: count(shard.slots) for shard in layout.shards}


def assert_sound(layout: Layout, members: Sequence[str]) -> None:
    """Everyone once, in one role; every slot has one leader."""
    assert sorted(layout.nodes) == sorted(members)
    assert layout.slots == SLOTS
    assert len(frozenset().union(*(expand(shard.slots) for shard in layout.shards))) == SLOTS
    assert layout == make_layout(layout.shards)


def assert_evened(layout: Layout) -> None:
    """Nobody is off its share by more than the threshold, or by what rounding leaves."""
    for number in slot_counts(layout).values():
        share = Fraction(SLOTS, len(layout.shards))
        assert abs(number - share) <= share * THRESHOLD / 100 + 1


@quick
@given(standings(), st.data())
def test_a_scaled_cluster_is_what_was_asked_for(standing: Standing, data: st.DataObject) -> None:
    members, counts = data.draw(requests(standing))
    goal = scaled(standing, members, counts)
    assert_sound(goal, members)
    assert Counter(len(shard.replicas) for shard in goal.shards) == Counter(counts)
    assert_evened(goal)
    assert all(shard.slots for shard in goal.shards)
    assert scaled(Standing(make_layout(reversed(standing.layout.shards)), standing.places), members, counts) == goal


@quick
@given(standings(), st.data())
def test_what_is_scaled_already_stays(standing: Standing, data: st.DataObject) -> None:
    members, counts = data.draw(requests(standing))
    goal = scaled(standing, members, counts)
    again = scaled(Standing(goal, standing.places), members, counts)
    assert again == goal
    assert changes(goal, again) == ()
    assert moves_between(goal, again) == ()


@quick
@given(standings(), st.data())
def test_no_more_slots_move_than_primaries_have_too_many(standing: Standing, data: st.DataObject) -> None:
    members, counts = data.draw(requests(standing))
    goal = scaled(standing, members, counts)
    after = slot_counts(goal)
    # Whoever goes on with a shard keeps of it what it may; a shard that nobody goes on with gives up all.
    had = {shard.primary: (count(shard.slots), successor(shard, goal)) for shard in standing.layout.shards}
    surplus = sum(max(0, number - after.get(heir, 0)) for number, heir in had.values())
    assert sum(move.count for move in moves_between(standing.layout, goal)) == surplus
    serving = [shard for shard in standing.layout.shards if shard.slots and set(shard.nodes) & set(members)]
    heirs = {had[shard.primary][1] for shard in serving} & after.keys()
    assert len(heirs) == min(len(serving), len(counts))


@quick
@given(standings(), st.data())
def test_a_primary_that_leaves_replicas_behind_moves_no_slot(standing: Standing, data: st.DataObject) -> None:
    layout = standing.layout
    goal = scaled(standing, layout.nodes, [len(shard.replicas) for shard in layout.shards])
    assume(goal.shards)
    standing = Standing(goal, standing.places)
    shard = data.draw(st.sampled_from(goal.shards))
    assume(shard.replicas)
    members = [name for name in standing.places if name in goal.nodes and name != shard.primary]
    counts = [len(each.replicas) - (each is shard) for each in goal.shards]
    after = scaled(standing, members, counts)
    assert moves_between(goal, after) == ()
    assert successor(shard, after) in shard.replicas


@quick
@given(st.integers(1, 12), st.integers(0, 2), st.integers(0, 12), st.integers(0, 2))
def test_there_and_back_again_everyone_has_its_role(nodes: int, replicas: int, more: int, then: int) -> None:
    assume(nodes > replicas)
    assume(nodes + more > then)
    standing = made(nodes, replicas)
    everyone = list(standing.places)[: nodes + more]
    asked = replica_counts(ClusterSpec(nodes=nodes, replicas=replicas))
    grown = scaled(standing, everyone, replica_counts(ClusterSpec(nodes=nodes + more, replicas=then)))
    back = scaled(Standing(grown, standing.places), everyone[:nodes], asked)
    assert Counter(len(shard.replicas) for shard in back.shards) == Counter(asked)
    # What grew in primaries alone comes back to the very roles; where replicas were made primaries, others may be now.
    before = {shard.primary for shard in standing.layout.shards}
    if before <= {shard.primary for shard in grown.shards}:
        assert {shard.primary for shard in back.shards} == before


@quick
@given(st.integers(1, 5), st.integers(0, 2), st.integers(1, 3))
def test_whole_shards_come_and_go_and_leave_no_trace(shards: int, replicas: int, more: int) -> None:
    per = replicas + 1
    standing = made(shards * per, replicas)
    everyone = list(standing.places)
    grown = scaled(standing, everyone[: (shards + more) * per], [replicas] * (shards + more))
    back = scaled(Standing(grown, standing.places), everyone[: shards * per], [replicas] * shards)
    roles = {shard.primary: shard.replicas for shard in standing.layout.shards}
    assert {shard.primary: shard.replicas for shard in back.shards} == roles


@quick
@given(standings(), st.data())
def test_new_primaries_get_their_share_of_everybody(standing: Standing, data: st.DataObject) -> None:
    names = newcomers_of(standing) + [
        shard.primary for shard in standing.layout.shards if not shard.slots and data.draw(st.booleans())
    ]
    assume(names)
    before = slot_counts(standing.layout)
    grown = with_primaries(standing, names)
    assert_sound(grown, sorted({*standing.layout.nodes, *names}))
    after = slot_counts(grown)
    leading = sum(number > 0 for number in before.values())
    share = Fraction(SLOTS, leading + len(names))
    for name in names:
        assert abs(after[name] - share) < 1
    for name, number in before.items():
        if name not in names:
            assert abs(after[name] - Fraction(number * leading, leading + len(names))) < 1
            assert after[name] <= number
    replicas = {shard.primary: shard.replicas for shard in standing.layout.shards}
    assert {s.primary: s.replicas for s in grown.shards} == dict.fromkeys(names, ()) | replicas


@quick
@given(standings())
def test_new_replicas_go_where_they_are_missed_most(standing: Standing) -> None:
    names = newcomers_of(standing)
    before = {shard.primary: set(shard.replicas) for shard in standing.layout.shards}
    layout = standing.layout
    for index, name in enumerate(names):
        grown = with_replicas(Standing(layout, standing.places), [name])
        (home,) = (shard for shard in grown.shards if name in shard.replicas)
        sizes = {shard.primary: len(shard.replicas) for shard in layout.shards if shard.slots}
        assert sizes[home.primary] == min(sizes.values())
        # No equal home has nobody at its machine where this one has somebody there.
        equals = [shard for shard in layout.shards if shard.slots and sizes[shard.primary] == len(home.replicas) - 1]
        mine = standing.places[name].host
        if mine == standing.places[home.primary].host:
            assert all(standing.places[shard.primary].host == mine for shard in equals)
        layout = grown
        assert layout == with_replicas(standing, names[: index + 1])
    after = {shard.primary: set(shard.replicas) for shard in layout.shards}
    assert all(after[primary] >= found for primary, found in before.items())
    assert [(s.primary, s.slots) for s in layout.shards] == [(s.primary, s.slots) for s in standing.layout.shards]


@quick
@given(standings(), st.data())
def test_an_empty_primary_can_become_a_replica(standing: Standing, data: st.DataObject) -> None:
    """As one that was made by hand and never given slots; who follows it must not be lost."""
    empty = [shard.primary for shard in standing.layout.shards if not shard.slots and not shard.replicas]
    assume(empty)
    name = data.draw(st.sampled_from(empty))
    grown = with_replicas(standing, [name])
    assert sorted(grown.nodes) == sorted(standing.layout.nodes)
    assert grown.slots == SLOTS


@quick
@given(standings(newcomers=0), st.integers(0, 2), st.booleans(), st.data())
def test_without_some_nodes_no_slot_is_lost(
    standing: Standing, replicas: int, fewer: bool, data: st.DataObject
) -> None:
    layout = standing.layout
    leaving = data.draw(st.lists(st.sampled_from(layout.nodes), min_size=1, unique=True))
    staying = [name for name in layout.nodes if name not in leaving]
    goal, refused = None, None
    try:
        goal = without(standing, leaving, replicas=replicas, fewer=fewer)
    except Conflict as error:
        refused = error
    if all(shard.primary in leaving for shard in layout.shards if shard.slots):
        assert refused is not None
        assert refused.code == "last-primary"
        heirs = any(shard.slots and set(shard.nodes) - set(leaving) for shard in layout.shards)
        assert ("failover" in refused.hint) == heirs
        return
    if refused is not None:
        assert refused.code == "too-few-replicas"
        assert "--fewer-replicas" in refused.hint
        assert not fewer
        assert refused.nodes
        return
    assert goal is not None
    assert_sound(goal, staying)
    had = {shard.primary: len(shard.replicas) for shard in layout.shards}
    for shard in goal.shards:
        heir_of = next(each for each in layout.shards if shard.primary in each.nodes)
        assert fewer or len(shard.replicas) >= min(replicas, had[heir_of.primary])
    # Nobody who stays gives anything to another one who stays.
    for move in moves_between(layout, goal):
        (source,) = (shard for shard in layout.shards if move.source in shard.nodes)
        assert source.primary in leaving


@quick
@given(standings(), standings())
def test_moves_lead_from_any_layout_to_any_other(one: Standing, two: Standing) -> None:
    moves = moves_between(one.layout, two.layout)
    heirs = {shard.primary: successor(shard, two.layout) for shard in one.layout.shards}
    promoted = [Shard(heirs[shard.primary], shard.slots) for shard in one.layout.shards]
    known = {shard.primary for shard in promoted}
    others = [Shard(shard.primary, ()) for shard in two.layout.shards if shard.primary not in known]
    found = moved(make_layout([*promoted, *others]), moves)
    wanted = {shard.primary: shard.slots for shard in two.layout.shards if shard.slots}
    assert {shard.primary: shard.slots for shard in found.shards if shard.slots} == wanted
    assert all(move.source != move.target and move.count for move in moves)


@quick
@given(standings(), standings())
def test_changes_tell_whatever_differs(one: Standing, two: Standing) -> None:
    found = changes(one.layout, two.layout)
    told = {change.node for change in found}
    assert len(told) == len(found)
    roles = [
        {
            name: count(shard.slots) if name == shard.primary else shard.primary
            for shard in each.layout.shards
            for name in shard.nodes
        }
        for each in (one, two)
    ]
    assert told == {name for name in {**roles[0], **roles[1]} if roles[0].get(name) != roles[1].get(name)}
    signs = {change.node: change.sign for change in found}
    assert {name for name, sign in signs.items() if sign == "+"} == roles[1].keys() - roles[0].keys()
    assert {name for name, sign in signs.items() if sign == "-"} == roles[0].keys() - roles[1].keys()


def test_counts_that_do_not_fit_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="3 members are no primaries"):
        scaled(made(3, 0), ["n0", "n1", "n2"], [1, 1])
