"""Moves bring primaries to their shares with the fewest slots, and lose none."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.errors import UsageError
from bootstrap.judging.batches import JOB_BYTES, MOST_JOBS, slots_in_job
from bootstrap.planning.layout import Layout, Shard, make_layout
from bootstrap.planning.moves import SlotMove, move_slots, rebalance, reshard, shares, split
from bootstrap.planning.slots import SLOTS, count, expand, merge, slot_ranges

quick = settings(deadline=None)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any owners of all slots, in pieces as they come of many moves; some own nothing."""
    number = draw(st.integers(1, 7))
    names = [f"n{index}" for index in range(number)]
    bounds = sorted(draw(st.sets(st.integers(1, SLOTS - 1), max_size=20)))
    pieces = list(zip([0, *bounds], [*(bound - 1 for bound in bounds), SLOTS - 1], strict=True))
    owners = [draw(st.sampled_from(names)) for _ in pieces]
    return make_layout(
        Shard(name, tuple(piece for piece, owner in zip(pieces, owners, strict=True) if owner == name))
        for name in names
    )


def owned(layout: Layout) -> dict[str, frozenset[int]]:
    return {shard.primary: expand(shard.slots) for shard in layout.shards}


def after(layout: Layout, moves: Sequence[SlotMove]) -> dict[str, frozenset[int]]:
    """Who has what then; moves only what somebody has."""
    found = owned(layout)
    for move in moves:
        slots = expand(move.slots)
        assert slots
        assert slots <= found[move.source]
        found[move.source] -= slots
        found[move.target] |= slots
    return found


weights = st.dictionaries(
    st.sampled_from([f"n{index}" for index in range(7)]), st.fractions(0, 8, max_denominator=7), max_size=7
)


@given(layouts(), weights)
def test_rebalanced_every_primary_has_its_share(layout: Layout, given_weights: dict[str, Fraction]) -> None:
    before = owned(layout)
    weighed = {name: given_weights.get(name, Fraction(1)) for name in before}
    if not sum(weighed.values()):
        return
    asked = {name: weight for name, weight in given_weights.items() if name in before}
    moves = rebalance(layout, asked, threshold=Fraction(0))
    found = after(layout, moves)
    assert sum(len(slots) for slots in found.values()) == SLOTS
    for name, slots in found.items():
        assert abs(len(slots) - SLOTS * weighed[name] / sum(weighed.values())) < 1
    # The fewest slots: nobody gives and gets, and what is given is what is too much.
    moved = sum(move.count for move in moves)
    assert moved == sum(max(0, len(before[name]) - len(found[name])) for name in before)
    assert not {move.source for move in moves} & {move.target for move in moves}
    assert len(moves) < max(1, len(before))
    again = make_layout(Shard(name, merge(slots)) for name, slots in found.items())
    assert rebalance(again, asked, threshold=Fraction(0)) == ()


@given(layouts(), st.integers(0, 60))
def test_small_differences_are_left(layout: Layout, percent: int) -> None:
    wanted = shares({name: len(slots) for name, slots in owned(layout).items()}, {})
    off = any(abs(len(slots) - wanted[name]) * 100 > percent * wanted[name] for name, slots in owned(layout).items())
    assert bool(rebalance(layout, threshold=Fraction(percent))) == off


@given(layouts(), st.data())
def test_a_number_of_slots_is_moved(layout: Layout, data: st.DataObject) -> None:
    before = owned(layout)
    if len(before) < 2:
        return
    names = data.draw(st.permutations(sorted(before)))
    split = data.draw(st.integers(1, len(names) - 1))
    sources, targets = names[:split], names[split:]
    available = sum(len(before[name]) for name in sources)
    if not available:
        with pytest.raises(UsageError, match="cannot be moved"):
            reshard(layout, sources, targets, 1)
        return
    number = data.draw(st.integers(1, available))
    moves = reshard(layout, sources, targets, number)
    found = after(layout, moves)
    assert sum(move.count for move in moves) == number
    got = [len(found[name]) - len(before[name]) for name in targets]
    assert max(got) - min(got) <= 1
    for name in sources:
        exact = Fraction(number * len(before[name]), available)
        assert abs(len(before[name]) - len(found[name]) - exact) < 1


@given(layouts(), st.sets(st.integers(0, SLOTS - 1), min_size=1, max_size=30))
def test_named_slots_are_moved(layout: Layout, slots: set[int]) -> None:
    target = layout.shards[-1].primary
    found = after(layout, move_slots(layout, slots, target))
    assert slots <= found[target]
    assert found[target] == owned(layout)[target] | slots


def thirds(names: str = "abc", *, more: str = "") -> Layout:
    ranges = slot_ranges(len(names))
    shards = [Shard(name, (pair,)) for name, pair in zip(names, ranges, strict=True)]
    return make_layout([*shards, *(Shard(name, ()) for name in more)])


def test_a_new_primary_gets_the_last_slots_of_each() -> None:
    moves = rebalance(thirds(more="d"))
    assert [str(move) for move in moves] == [
        "a to d: 1365 slots (4096-5460)",
        "b to d: 1366 slots (9557-10922)",
        "c to d: 1365 slots (15019-16383)",
    ]


def test_one_of_weight_0_is_emptied() -> None:
    moves = rebalance(thirds(), {"b": Fraction(0)})
    found = after(thirds(), moves)
    assert {name: len(slots) for name, slots in found.items()} == {"a": 8192, "b": 0, "c": 8192}
    assert sum(move.count for move in moves) == 5462


def test_what_create_deals_is_even_already() -> None:
    for number in range(1, 40):
        assert rebalance(thirds("".join(map(chr, range(65, 65 + number)))), threshold=Fraction(0)) == ()


@pytest.mark.parametrize(
    ("sources", "targets", "number", "words"),
    [
        (["x"], ["a"], 1, "x is no primary"),
        (["a"], ["a"], 1, "a cannot be source and target"),
        (["a"], [], 1, "nobody to move slots to"),
        (["a"], ["b"], 5462, "the sources have 5461"),
        (["a"], ["b"], 0, "0 slots cannot be moved"),
    ],
)
def test_what_cannot_be_is_refused(sources: list[str], targets: list[str], number: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        reshard(thirds(), sources, targets, number)


def test_weights_that_cannot_be_are_refused() -> None:
    for wrong in ({"x": Fraction(1)}, {"a": Fraction(-1)}, dict.fromkeys("abc", Fraction(0))):
        with pytest.raises(UsageError):
            rebalance(thirds(), wrong)
    assert count(slot_ranges(3)) == SLOTS


@quick
@given(st.sets(st.integers(0, SLOTS - 1), min_size=1), st.integers(1, SLOTS))
def test_a_move_in_parts_is_the_move(slots: set[int], most: int) -> None:
    parts = split(SlotMove("a", "b", merge(slots)), most)
    assert sorted(slot for part in parts for slot in expand(part.slots)) == sorted(slots)
    assert max(part.count for part in parts) <= most
    assert len(parts) == -(-len(slots) // most)
    assert {(part.source, part.target) for part in parts} == {("a", "b")}


@quick
@given(st.integers(1, SLOTS), st.integers(0, SLOTS), st.integers(0, 1 << 50))
def test_jobs_are_as_large_as_the_data_lets_them_be(slots: int, more: int, data: int) -> None:
    size = slots_in_job(slots, slots + more, data)
    assert 1 <= size <= slots
    assert -(-slots // size) <= MOST_JOBS
    fits = size * data <= JOB_BYTES * (slots + more)
    assert fits or size == min(slots, -(-(slots + more) // MOST_JOBS))
    assert size == slots or (size + 1) * data > JOB_BYTES * (slots + more)


def test_little_data_goes_in_one_job() -> None:
    assert slots_in_job(4096, 8192, 100 << 20) == 4096
    assert slots_in_job(4096, 8192, 512 << 20) == 1024
    assert slots_in_job(4096, 4096, 1 << 40) == 16
