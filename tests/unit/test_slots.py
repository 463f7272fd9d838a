"""Slots of keys, the split over primaries, and ranges as values."""

from __future__ import annotations

from hashlib import sha256

import pytest

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

# SHA-256 of the lines "0-5460,5461-10922,..." for 1..1000 primaries, joined by newlines, as printed by
# valkey-cli 8.1.8 `--cluster create --cluster-replicas 0`, run once for each count against a stub
# (tests/integration/test_slots_witness.py does so for a few counts).
VALKEY_CLI_RANGES = "cfe639ae3c06f90feb0b23ef2edd9457786d97d488d03c0f8a52d22d27d96f9a"


@pytest.mark.parametrize(("key", "slot"), [("123456789", 12739), (b"123456789", 12739), ("foo", 12182), ("", 0)])
def test_slot_of_a_key(key: str | bytes, slot: int) -> None:
    assert key_slot(key) == slot


def test_text_is_utf8() -> None:
    assert key_slot("ключ") == key_slot("ключ".encode())


@pytest.mark.parametrize(
    ("key", "same_as"),
    [
        ("{user1000}.following", "user1000"),
        ("{user1000}.followers", "user1000"),
        ("foo{bar}{zap}", "bar"),
        ("foo{{bar}}zap", "{bar"),
        ("}{a}", "a"),
    ],
)
def test_a_hash_tag_decides(key: str, same_as: str) -> None:
    assert key_slot(key) == key_slot(same_as)


@pytest.mark.parametrize("key", ["foo{}{bar}", "{}bar", "foo{bar", "foo}bar"])
def test_no_tag_or_an_empty_first_one_leaves_the_whole_key(key: str) -> None:
    # Any letter before changes the slot of a key that is hashed whole, and would not if a tag decided.
    assert key_slot("x" + key) != key_slot(key)
    assert key_slot(key) != key_slot("bar")


def test_three_and_five_primaries() -> None:
    assert slot_ranges(3) == ((0, 5460), (5461, 10922), (10923, 16383))
    assert slot_ranges(5) == ((0, 3276), (3277, 6553), (6554, 9829), (9830, 13106), (13107, 16383))


def test_ranges_up_to_1000_primaries_are_valkey_clis() -> None:
    lines = "\n".join(format_ranges(slot_ranges(primaries)) for primaries in range(1, 1001))
    assert sha256(lines.encode()).hexdigest() == VALKEY_CLI_RANGES


def test_one_slot_each_is_the_most() -> None:
    assert slot_ranges(SLOTS) == tuple((slot, slot) for slot in range(SLOTS))


@pytest.mark.parametrize("primaries", [-1, 0, SLOTS + 1])
def test_impossible_counts(primaries: int) -> None:
    with pytest.raises(ValueError, match=str(primaries)):
        slot_ranges(primaries)


def test_covering_key_for_one_slot_and_for_a_shard() -> None:
    assert key_slot(covering_key(5460, 5460, "probe")) == 5460
    assert 10923 <= key_slot(covering_key(10923, 16383, "probe:{x}")) <= 16383
    assert covering_key(0, SLOTS - 1, "probe") == "{0}probe"


@pytest.mark.parametrize(("first", "last"), [(-1, 5), (6, 5), (0, SLOTS)])
def test_covering_key_of_no_range(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="not a slot range"):
        covering_key(first, last, "probe")


def test_ranges_as_values() -> None:
    ranges = ((0, 2), (5, 5))
    assert merge([5, 0, 2, 1, 1]) == ranges
    assert expand(ranges) == {0, 1, 2, 5}
    assert count(ranges) == 4
    assert format_ranges(((0, 5460), (5500, 5500))) == "0-5460,5500"
    assert (merge(()), expand(()), count(()), format_ranges(())) == ((), frozenset(), 0, "")
