"""What a run of the soak is: drawn from a seed and a number, so that it can be run again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

Start = Literal["create", "create-late", "create-stopped", "form", "form-late"]
"""``create`` from nothing; with servers that an earlier command was killed after starting, a while ago; of a cluster
that was ready, and whose servers were ended. ``form`` on servers just started, or up for a while."""

Kind = Literal["pause", "sleep", "kill", "swallow", "interrupt"]
"""SIGSTOP; DEBUG SLEEP; SIGKILL, and with ``form`` a restart; whatever comes in at the bus port vanishes, for ``form``
alone; SIGKILL for the command itself."""

PHASES = ("survey", "start", "slots", "meet", "replicas", "agree", "proof")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that is done to a node while the command is at work, or to the command.

    Args:
        kind: what is done.
        node: the index of the node.
        phase: it is done after this phase or a later one has begun.
        delay: so many seconds after that.
        seconds: how long it lasts.
    """

    kind: Kind
    node: int
    phase: str
    delay: float
    seconds: float

    def __str__(self) -> str:
        moment = f"{self.phase}+{self.delay:.2f}"
        match self.kind:
            case "interrupt":
                return f"interrupt at {moment}"
            case "swallow":
                return f"swallow {self.node} until meet+{self.seconds:.1f}"
            case _:
                return f"{self.kind} {self.node} at {moment} for {self.seconds:.1f}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One run.

    Args:
        seed: with the number, what it was drawn from.
        number: which run of the seed it is.
        start: where the command begins.
        version: of the servers.
        nodes: how many.
        replicas: of each primary.
        age: seconds that the servers are up before the command that is judged, where the start has it.
        settings: of the servers, beside what every run has.
        retain: whether `create` keeps what it made when it fails.
        faults: by command, the first, the second; a last one without any follows if it has to.
    """

    seed: int
    number: int
    start: Start
    version: str
    nodes: int
    replicas: int
    age: float
    settings: tuple[tuple[str, str], ...]
    retain: bool
    faults: tuple[tuple[Fault, ...], ...]

    @property
    def forms(self) -> bool:
        """The servers are run by the soak, not by the command."""
        return self.start.startswith("form")

    @property
    def shards(self) -> tuple[int, ...]:
        """Replicas of each shard: the even share, and one more for the first ones from what is left over."""
        primaries, left = divmod(self.nodes, self.replicas + 1)
        counts = [self.replicas] * primaries
        for extra in range(left):
            counts[extra % primaries] += 1
        return tuple(counts)

    def __str__(self) -> str:
        faults = "; then ".join(", ".join(map(str, each)) for each in self.faults if each) or "nothing"
        return f"{self.start:14} {self.version:10} {self.nodes:2}/{self.replicas}  {faults}"


def calm(start: Start, version: str, nodes: int, replicas: int) -> Scenario:
    """A run in which nothing is done to the servers."""
    return Scenario(0, 0, start, version, nodes, replicas, age=0.0, settings=(), retain=False, faults=())


def draw(seed: int, number: int, versions: Sequence[str], *, most: int = 30) -> Scenario:
    """The run of that number.

    Args:
        seed: any number.
        number: of the run.
        versions: of servers that there are.
        most: nodes.
    """
    dice = random.Random(f"{seed}:{number}")
    start = dice.choice(get_args(Start))
    # Small ones are quick, large ones are slow; half of the runs have up to six nodes.
    nodes = dice.randint(1, min(most, dice.choice((6, 6, 12, 30))))
    return Scenario(
        seed=seed,
        number=number,
        start=start,
        version=dice.choice(versions),
        nodes=nodes,
        replicas=min(dice.choice((0, 1, 1, 1, 2, 3)), nodes - 1),
        age=round(dice.uniform(0.5, 4.0), 2),
        settings=_settings(dice, start),
        retain=dice.random() < 0.5,
        faults=_faults(dice, start, nodes),
    )


def _settings(dice: random.Random, start: Start) -> tuple[tuple[str, str], ...]:
    own = []
    if start.startswith("form"):
        # Replication that does not wait for more replicas: five seconds less for most of the runs.
        own += [("repl-diskless-sync-delay", "0")] if dice.random() < 0.7 else []
        own += [("cluster-node-timeout", dice.choice(("3000", "5000", "8000")))] if dice.random() < 0.7 else []
    elif dice.random() < 0.3:
        own += [("cluster-node-timeout", dice.choice(("2000", "7000")))]
    if dice.random() < 0.2:
        own += [("repl-ping-replica-period", "3"), ("repl-diskless-load", "on-empty-db")]
    return tuple(own)


def _faults(dice: random.Random, start: Start, nodes: int) -> tuple[tuple[Fault, ...], ...]:
    kinds: list[Kind] = ["pause", "pause", "sleep", "kill", "interrupt"]
    if start.startswith("form") and nodes > 1:
        kinds.append("swallow")
    rounds: list[tuple[Fault, ...]] = []
    for _ in range(dice.choice((0, 1, 1, 1, 1, 2))):
        faults = [_fault(dice, dice.choice(kinds), start, nodes) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
        # One thing at a time for each node.
        rounds.append(tuple({(fault.kind == "interrupt", fault.node): fault for fault in faults}.values()))
    return tuple(rounds)


def _fault(dice: random.Random, kind: Kind, start: Start, nodes: int) -> Fault:
    phases = PHASES[1:] if not start.startswith("form") else (PHASES[0], *PHASES[2:])
    return Fault(
        kind=kind,
        node=-1 if kind == "interrupt" else dice.randrange(nodes),
        phase=dice.choice((*phases, "slots", "meet", "meet", "replicas")),
        # Phases are short: most moments are soon after their beginning.
        delay=round(0.6 * dice.random() * dice.random(), 3),
        seconds=round(dice.uniform(0.2, 3.0), 2),
    )
