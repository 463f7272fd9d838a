"""What can be asked of the shape of a running cluster, as data, and the layout that each request leads to."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from bootstrap.errors import Conflict, UsageError
from bootstrap.operations.form import Target
from bootstrap.planning.layout import Layout
from bootstrap.planning.moves import THRESHOLD, SlotMove, move_slots, rebalance, reshard
from bootstrap.planning.scaling import Standing, moved, scaled, with_primaries, with_replicas, without
from bootstrap.planning.slots import SlotRange, expand, format_ranges
from bootstrap.planning.spec import ClusterSpec, replica_counts
from bootstrap.planning.text import listing, plural

Ref = str | int
"""A node as a person names it: see `resolve_node`."""

Weights = Mapping[str, float] | Mapping[int, float] | Mapping[Ref, float]
"""Primaries with their weights; for type checkers a mapping of names alone is none of names and indexes."""


@dataclass(frozen=True, slots=True)
class AddNodes:
    """Further nodes: replicas where they are missed most, or of named primaries in turn, or primaries with their share.

    Args:
        number: how many servers are started; with `servers` their number counts.
        primaries: they are to be primaries.
        replica_of: the primaries that they follow.
        servers: servers that run already; only of clusters of others.
    """

    number: int = 1
    primaries: bool = False
    replica_of: tuple[Ref, ...] = ()
    servers: tuple[Target, ...] = ()

    @property
    def command(self) -> str:
        """The verb and its arguments, for messages and for recognising the same request again."""
        what = ["--primary"] if self.primaries else [f"--replica-of={ref}" for ref in self.replica_of]
        number = [] if self.number == 1 else [f"--count={self.number}"]
        return shlex.join(["add-node", *(str(each.address) for each in self.servers), *number, *what])


@dataclass(frozen=True, slots=True)
class RemoveNodes:
    """Fewer nodes: primaries hand over their slots first.

    Args:
        nodes: which ones.
        fewer_replicas: leave primaries with fewer replicas than are asked for.
        lose_data: go on where nodes that do not answer have keys that nobody else has.
    """

    nodes: tuple[Ref, ...]
    fewer_replicas: bool = False
    lose_data: bool = False

    @property
    def command(self) -> str:
        """See `AddNodes.command`."""
        flags = ["--fewer-replicas"] * self.fewer_replicas + ["--lose-data"] * self.lose_data
        return shlex.join(["remove-node", *map(str, self.nodes), *flags])


@dataclass(frozen=True, slots=True)
class Rebalance:
    """Every primary gets its share of the slots.

    Args:
        weights: primary -> weight, 1 where it is not named; 0 empties it.
        threshold: per cent of its share that a primary may be off.
    """

    weights: Mapping[Ref, Fraction] = field(default_factory=dict)
    threshold: Fraction = THRESHOLD

    @property
    def command(self) -> str:
        """See `AddNodes.command`."""
        weights = [f"--weight={ref}={_number(weight)}" for ref, weight in self.weights.items()]
        threshold = [] if self.threshold == THRESHOLD else [f"--threshold={_number(self.threshold)}"]
        return shlex.join(["rebalance", *weights, *threshold])


@dataclass(frozen=True, slots=True)
class Reshard:
    """Slots move: these very ones, or so many of them.

    Args:
        to: the primaries that get them.
        slots: which ones; then there is one target.
        count: how many, where `slots` is empty.
        of: the primaries that give; empty for all others.
    """

    to: tuple[Ref, ...]
    slots: tuple[SlotRange, ...] = ()
    count: int = 0
    of: tuple[Ref, ...] = ()

    @property
    def command(self) -> str:
        """See `AddNodes.command`."""
        what = f"--slots={format_ranges(self.slots)}" if self.slots else f"--count={self.count}"
        return shlex.join(["reshard", what, *(f"--from={ref}" for ref in self.of), *(f"--to={ref}" for ref in self.to)])


@dataclass(frozen=True, slots=True)
class Scale:
    """The whole shape: so many nodes, so many replicas of each primary.

    Args:
        nodes: the total.
        replicas: of each primary; None for as many as are asked for already.
    """

    nodes: int
    replicas: int | None = None

    @property
    def command(self) -> str:
        """See `AddNodes.command`."""
        return f"scale --nodes {self.nodes}" + ("" if self.replicas is None else f" --replicas {self.replicas}")


Request = AddNodes | RemoveNodes | Rebalance | Reshard | Scale


@dataclass(frozen=True, slots=True)
class Scene:
    """What a request is decided on.

    Args:
        standing: the shape, and where the nodes sit; the index order is the order of its places.
        newcomers: nodes that are to join.
        leaving: nodes that are to leave.
        replicas: how many replicas each primary is asked to have.
        resolve: the name of the node that a person means.
    """

    standing: Standing
    newcomers: Sequence[str]
    leaving: Sequence[str]
    replicas: int
    resolve: Callable[[Ref], str]

    @property
    def layout(self) -> Layout:
        """The shape that there is."""
        return self.standing.layout


def decide(request: Request, scene: Scene) -> Layout:
    """The layout that a request leads to; pure.

    Raises:
        UsageError: it names nodes or slots that there are not.
        Conflict: it would leave the cluster worse than it may be.
    """
    match request:
        case AddNodes():
            return _added(request, scene)
        case RemoveNodes():
            replicas = 0 if request.fewer_replicas else scene.replicas
            return without(scene.standing, scene.leaving, replicas=replicas, fewer=request.fewer_replicas)
        case Rebalance():
            weights = {scene.resolve(ref): weight for ref, weight in request.weights.items()}
            if len(weights) < len(request.weights):
                raise UsageError("a weight is given twice", hint="give each node once")
            return moved(scene.layout, rebalance(scene.layout, weights, threshold=request.threshold))
        case Reshard():
            return moved(scene.layout, _resharded(request, scene))
        case Scale():
            members = [name for name in scene.standing.places if name not in scene.leaving]
            spec = ClusterSpec(
                nodes=request.nodes, replicas=scene.replicas if request.replicas is None else request.replicas
            )
            spec.check()
            return scaled(scene.standing, members, replica_counts(spec))


def check(request: Request) -> None:
    """Refuse what cannot work whatever the cluster is.

    Raises:
        SpecError: counts that give no cluster.
        UsageError: arguments that exclude each other.
    """
    if isinstance(request, Scale):
        ClusterSpec(nodes=request.nodes, replicas=request.replicas or 0).check()
    if isinstance(request, AddNodes) and request.primaries and request.replica_of:
        raise UsageError("new primaries follow nobody", hint="leave out --primary or --replica-of")
    if isinstance(request, AddNodes) and request.number < 1:
        raise UsageError(f"{plural(request.number, 'node')} cannot be added", hint="ask for 1 or more")
    if isinstance(request, RemoveNodes) and not request.nodes:
        raise UsageError("no node is named", hint="name the nodes to remove")
    if isinstance(request, Reshard) and bool(request.slots) == bool(request.count):
        raise UsageError("slots are given by --slots or by --count", hint="give one of them")
    if isinstance(request, Reshard) and request.slots and len(request.to) != 1:
        raise UsageError("--slots go to one primary", hint="give one --to")


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else repr(float(value))


def _added(request: AddNodes, scene: Scene) -> Layout:
    newcomers = list(scene.newcomers)
    busy = [shard.primary for shard in scene.layout.shards if shard.primary in newcomers and shard.slots]
    if busy and not request.primaries:
        raise Conflict(
            f"{listing(busy)} {'is a primary' if len(busy) == 1 else 'are primaries'} with slots",
            code="has-slots",
            hint="add it with --primary, or empty it first: `valkey-bootstrap rebalance --weight NODE=0`",
        )
    following = {name for shard in scene.layout.shards for name in shard.replicas}
    if request.primaries:
        if already := [name for name in newcomers if name in following]:
            raise Conflict(
                f"{listing(already)} {'is a replica' if len(already) == 1 else 'are replicas'} of this cluster",
                code="is-a-member",
                hint="remove it first: `valkey-bootstrap remove-node`",
            )
        return with_primaries(scene.standing, newcomers)
    of = [scene.resolve(ref) for ref in request.replica_of]
    return with_replicas(scene.standing, [name for name in newcomers if name not in following], of)


def _resharded(request: Reshard, scene: Scene) -> tuple[SlotMove, ...]:
    to = [scene.resolve(ref) for ref in request.to]
    of = [scene.resolve(ref) for ref in request.of]
    if not request.slots:
        return reshard(scene.layout, of, to, request.count)
    moves = move_slots(scene.layout, expand(request.slots), to[0])
    if others := [move.source for move in moves if of and move.source not in of]:
        raise UsageError(
            f"{listing(others)} {'has' if len(others) == 1 else 'have'} some of these "
            f"{plural(len(expand(request.slots)), 'slot')}",
            code="bad-slots",
            hint="leave out --from, or name whoever has them",
        )
    return moves
