"""Slot arithmetic: key to slot, the split of the slots over primaries, and slot ranges as values."""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterable
from functools import lru_cache
from itertools import count as count_up
from itertools import pairwise
from struct import Struct

SLOTS = 16384

SlotRange = tuple[int, int]
"""First and last slot, both inclusive."""

_FLOAT = Struct("f")


def key_slot(key: bytes | str) -> int:
    """Return the slot (0..16383) that a key hashes to; text is taken as UTF-8.

    CRC16/XMODEM of the key, or of its hash tag: what stands between the first '{' and the first '}' after
    it, unless nothing does (Valkey's cluster.c, keyHashSlot).
    """
    data = key.encode() if isinstance(key, str) else key
    opening = data.find(b"{")
    closing = data.find(b"}", opening + 1) if opening >= 0 else -1
    if closing > opening + 1:
        data = data[opening + 1 : closing]
    return crc_hqx(data, 0) % SLOTS


@lru_cache(maxsize=64)
def slot_ranges(primaries: int) -> tuple[SlotRange, ...]:
    """Return the slots of each primary, in order, as `valkey-cli --cluster create` deals them.

    The ranges partition 0..16383.  For 1..1000 primaries they equal valkey-cli's (valkey-cli.c,
    clusterManagerCommandCreate).  ValueError outside 1..16384.
    """
    if not 1 <= primaries <= SLOTS:
        raise ValueError(f"primaries must be 1..{SLOTS}, not {primaries}")
    ranges = _float_ranges(primaries)
    # Thousands of float additions drift until the last primaries are left without slots (first at 7542).
    return ranges if _is_partition(ranges) else _even_ranges(primaries)


def covering_key(first: int, last: int, prefix: str) -> str:
    """Return the key "{tag}prefix", of the smallest decimal tag, whose slot is in first..last (inclusive).

    Deterministic; about 16384 / (last - first + 1) hashes.  ValueError unless 0 <= first <= last < 16384.
    """
    if not 0 <= first <= last < SLOTS:
        raise ValueError(f"not a slot range: {first}-{last}")
    return f"{{{_covering_tag(first, last)}}}{prefix}"


def merge(slots: Iterable[int]) -> tuple[SlotRange, ...]:
    """Return the fewest ranges, ascending, that hold exactly these slots (any order, repeats allowed)."""
    ranges: list[SlotRange] = []
    for slot in sorted(set(slots)):
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return tuple(ranges)


def expand(ranges: Iterable[SlotRange]) -> frozenset[int]:
    """Return the slots that the ranges hold."""
    return frozenset(slot for first, last in ranges for slot in range(first, last + 1))


def count(ranges: Iterable[SlotRange]) -> int:
    """Return how many slots the ranges hold; the ranges must not overlap."""
    return sum(last - first + 1 for first, last in ranges)


def format_ranges(ranges: Iterable[SlotRange]) -> str:
    """Return the ranges in the given order as CLUSTER NODES writes them, joined by commas: "0-5460,5500"."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def slots_text(slots: Iterable[int]) -> str:
    """``slot 7``, ``slots 0-5460,5500``: for people."""
    ranges = merge(slots)
    single = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
    return f"{'slot' if single else 'slots'} {format_ranges(ranges)}"


def _float_ranges(primaries: int) -> tuple[SlotRange, ...]:
    share = _single(SLOTS / primaries)
    cursor = 0.0
    first = 0
    ranges: list[SlotRange] = []
    for index in range(primaries):
        last = int(_single(_single(cursor + share) - 1) + 0.5)  # lround: never negative here, halves go up
        if last > SLOTS or index == primaries - 1:
            last = SLOTS - 1
        last = max(last, first)
        ranges.append((first, last))
        first = last + 1
        cursor = _single(cursor + share)
    return tuple(ranges)


def _even_ranges(primaries: int) -> tuple[SlotRange, ...]:
    bounds = [index * SLOTS // primaries for index in range(primaries + 1)]
    return tuple((first, end - 1) for first, end in pairwise(bounds))


def _is_partition(ranges: tuple[SlotRange, ...]) -> bool:
    follows = all(left[1] + 1 == right[0] for left, right in pairwise(ranges))
    return follows and ranges[0][0] == 0 and ranges[-1][1] == SLOTS - 1 and all(a <= b for a, b in ranges)


def _single(value: float) -> float:
    """Return the value rounded to a C float, as every step of valkey-cli's arithmetic is."""
    rounded: float = _FLOAT.unpack(_FLOAT.pack(value))[0]
    return rounded


@lru_cache(maxsize=SLOTS)
def _covering_tag(first: int, last: int) -> int:
    return next(tag for tag in count_up() if first <= key_slot(b"%d" % tag) <= last)
