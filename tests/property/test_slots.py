"""What slots.py promises for every count, key and set of slots."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from bootstrap.planning.slots import (
    SLOTS,
    count,
    covering_key,
    expand,
    format_ranges,
    key_slot,
    merge,
    slot_ranges,
)

slot_numbers = st.integers(0, SLOTS - 1)


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.integers(1, 1000), st.integers(1, SLOTS)))
@example(1)
@example(7542)
@example(SLOTS)
def test_ranges_partition_the_slots(primaries: int) -> None:
    ranges = slot_ranges(primaries)
    assert len(ranges) == primaries
    assert [slot for first, last in ranges for slot in range(first, last + 1)] == list(range(SLOTS))
    sizes = [last - first + 1 for first, last in ranges]
    assert min(sizes) >= 1
    if primaries <= 1000:
        assert max(sizes) - min(sizes) <= 2


@given(st.sets(slot_numbers))
def test_merge_and_expand_are_inverse(slots: set[int]) -> None:
    ranges = merge(slots)
    assert expand(ranges) == slots
    assert count(ranges) == len(slots)
    assert all(left[1] + 1 < right[0] for left, right in pairwise(ranges))
    assert format_ranges(ranges).count(",") == max(0, len(ranges) - 1)


@settings(deadline=None, max_examples=50)
@given(slot_numbers, slot_numbers, st.text(max_size=8))
def test_covering_key_falls_in_its_range(one: int, other: int, prefix: str) -> None:
    first, last = sorted((one, other))
    key = covering_key(first, last, prefix)
    assert first <= key_slot(key) <= last
    assert key == covering_key(first, last, prefix)
    assert key.endswith("}" + prefix)


@given(st.binary(max_size=20), st.binary(max_size=20), st.binary(min_size=1, max_size=20))
def test_only_the_tag_counts(before: bytes, after: bytes, tag: bytes) -> None:
    plain = tag.replace(b"{", b"").replace(b"}", b"") or b"t"
    assert key_slot(before.replace(b"{", b"") + b"{" + plain + b"}" + after) == key_slot(plain)
