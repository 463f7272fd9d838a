"""What servers of Valkey 9.0 and newer say about slots on the move (`CLUSTER GETSLOTMIGRATIONS`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bootstrap.planning.site import Version
from bootstrap.planning.slots import SLOTS, SlotRange, expand, merge

Direction = Literal["export", "import"]

_ENDED = frozenset({"success", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Migration:
    """One job, as one of its two nodes tells it.

    Args:
        name: the job's id, the same on both nodes.
        direction: whether the node that tells it is the source or the target.
        slots: which ones.
        source, target: node ids; "" where a replica tells it, which names neither.
        state: as the server writes it; ``success``, ``failed`` and ``cancelled`` are final.
        message: why it failed, "" otherwise.
        remaining: bytes that the target has not acknowledged yet, as far as the source knows.
    """

    name: str
    direction: Direction
    slots: tuple[SlotRange, ...]
    source: str
    target: str
    state: str
    message: str = ""
    remaining: int = 0

    @property
    def ended(self) -> bool:
        """Nothing more will happen to it."""
        return self.state in _ENDED


def read_migrations(reply: Any) -> tuple[Migration, ...]:
    """Parse a reply; ValueError for what is not in the documented form."""
    if not isinstance(reply, list):
        raise ValueError(f"not a list of slot migrations: {reply!r}")
    return tuple(_migration(each) for each in reply)


def _migration(fields: Any) -> Migration:
    if not isinstance(fields, list) or len(fields) % 2:
        raise ValueError(f"not a slot migration: {fields!r}")
    found = {str(key): value for key, value in zip(fields[::2], fields[1::2], strict=True)}
    try:
        direction = str(found["operation"]).lower()
        if direction not in ("export", "import"):
            raise ValueError(f"not an operation: {direction!r}")
        return Migration(
            name=str(found["name"]),
            direction="export" if direction == "export" else "import",
            slots=_ranges(str(found["slot_ranges"]).split()),
            source=str(found.get("source_node", "")),
            target=str(found.get("target_node", "")),
            state=str(found["state"]),
            message=str(found.get("message") or ""),
            remaining=int(found.get("remaining_repl_size") or 0),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a slot migration: {error!r}") from error


def _ranges(texts: Sequence[str]) -> tuple[SlotRange, ...]:
    pairs = []
    for text in texts:
        first, _, last = text.partition("-")
        bounds = int(first), int(last or first)
        if not 0 <= bounds[0] <= bounds[1] < SLOTS:
            # Never expanded: a range of 10**12 slots would take all memory.
            raise ValueError(f"no slots: {text[:40]!r}")
        pairs.append(bounds)
    return merge(expand(pairs))


def moves_ranges(flavor: str, version: Version) -> bool:
    """Whether a server moves whole ranges by itself (``CLUSTER MIGRATESLOTS``, Valkey 9.0)."""
    return flavor == "valkey" and version >= (9, 0, 0)


def holds_setslot(flavor: str, version: Version) -> bool:
    """Whether a primary answers SETSLOT only when its replicas have it (Valkey 8.0, `clusterCommandSetSlot`)."""
    return flavor == "valkey" and version >= (8, 0, 0)


def newest(jobs: Sequence[Migration], known: Collection[str], target: str) -> Migration | None:
    """The job to a target that was not there before, of the jobs of a source as it lists them."""
    return next((job for job in jobs if job.name not in known and job.target == target), None)
