"""The shape of a cluster: which primary serves which slots, and which replicas follow it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bootstrap.planning.slots import SlotRange, count


@dataclass(frozen=True, slots=True)
class Shard:
    """One primary, its slots and its replicas; nodes are named by whatever the layout's maker names them by."""

    primary: str
    slots: tuple[SlotRange, ...]
    replicas: tuple[str, ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """The primary, then the replicas."""
        return (self.primary, *self.replicas)


@dataclass(frozen=True, slots=True)
class Layout:
    """All the shards, ordered by their first slot; primaries without slots come last."""

    shards: tuple[Shard, ...]

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node once: primaries first, then replicas, each in shard order."""
        primaries = tuple(shard.primary for shard in self.shards)
        return primaries + tuple(name for shard in self.shards for name in shard.replicas)

    @property
    def slots(self) -> int:
        """How many slots have a primary."""
        return sum(count(shard.slots) for shard in self.shards)

    def shard_of(self, node: str) -> Shard | None:
        """The shard that a node belongs to."""
        return next((shard for shard in self.shards if node in shard.nodes), None)

    def renamed(self, names: Mapping[str, str]) -> Layout:
        """The same layout with other names; names that the mapping lacks stay."""

        def name(old: str) -> str:
            return names.get(old, old)

        return make_layout(
            Shard(name(shard.primary), shard.slots, tuple(map(name, shard.replicas))) for shard in self.shards
        )


def make_layout(shards: Iterable[Shard]) -> Layout:
    """A layout in its canonical order, so that equal clusters compare equal."""
    ordered = sorted(
        (Shard(shard.primary, tuple(sorted(shard.slots)), tuple(sorted(shard.replicas))) for shard in shards),
        key=lambda shard: (not shard.slots, shard.slots, shard.primary),
    )
    return Layout(tuple(ordered))
