"""How much a source is asked to send at once: keys in a round trip, slots in a job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

MOST_KEYS = 1000
"""Of one MIGRATE: what a source packs, sends and deletes in some milliseconds."""

MOST_BYTES = 1 << 20
"""The same for large values, as their memory is reported."""

MOST_COMMANDS = 16
"""In one round trip: each may wait for its own timeout where a target hangs, and the source with it."""

AIM_SECONDS = 0.004
"""How long a source may be busy with what is sent in one round trip."""

JOB_BYTES = 64 << 20
"""About how much data goes in one job. At its end a source pauses writes until the target has caught up, for longer the
larger the job is, and what has arrived of a job that is given up counts for nothing. On the other
hand each job has a pause of its own (docs/benchmarks.md)."""

MOST_JOBS = 256
"""For all that a source has: each job begins with a fork of it, which takes longer the more it has."""

LEAST_KEYS = 10
SAMPLES = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """How much goes in one round trip.

    Args:
        keys: at most; changed by what round trips take.
    """

    keys: int = 100

    def after(self, keys: int, seconds: float) -> Pace:
        """What to do after a round trip with so many keys that took so long."""
        if seconds > 2 * AIM_SECONDS:
            return replace(self, keys=max(LEAST_KEYS, min(self.keys, keys) // 2))
        if seconds < AIM_SECONDS and 2 * keys > self.keys:
            return replace(self, keys=min(MOST_KEYS, self.keys * 3 // 2))
        return self


def keys_in_one(sizes: Sequence[int], pace: Pace) -> int:
    """How many keys of a slot go in one MIGRATE, by the bytes that some of them take; at least 1."""
    mean = max(1, sum(sizes) // len(sizes)) if sizes else 1
    return max(1, min(pace.keys, MOST_KEYS, MOST_BYTES // mean))


def samples(count: int) -> tuple[int, ...]:
    """Which of so many keys are weighed."""
    if count <= SAMPLES:
        return tuple(range(count))
    return tuple(index * (count - 1) // (SAMPLES - 1) for index in range(SAMPLES))


def slots_in_job(slots: int, owned: int, data: int) -> int:
    """How many slots go in one job of a source, at least 1.

    Args:
        slots: that are to be moved.
        owned: slots that the source has, over which its data is thought to be spread evenly.
        data: bytes that it takes.
    """
    return max(1, min(slots, max(JOB_BYTES * owned // max(1, data), -(-owned // MOST_JOBS))))
