"""An independent judge of a cluster that is said to be ready: its own sockets, its own parsers, nothing of the product.

As a program it reads a `Case` as JSON from stdin and prints what is wrong as a JSON list: that is how it judges from
inside a network namespace.
"""

from __future__ import annotations

import json
import socket
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

SLOTS = 16384
TIMEOUT = 30.0
"""Long enough where packets get lost: a second, two, four for each attempt to connect."""
WATCHED = (
    "cluster-node-timeout",
    "cluster-ping-interval",
    "repl-diskless-sync-delay",
    "repl-diskless-load",
    "repl-ping-replica-period",
)
"""Settings that formation may change meanwhile, and has to put back."""


class Refused(Exception):
    """An error reply."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One node as the judge knows it beforehand.

    Args:
        name: for what is told.
        port: where it is asked, on 127.0.0.1.
        announced: the port that the nodes are to know it by.
        settings: the values that it is configured with; a setting that its version does not know is missing.
    """

    name: str
    port: int
    announced: int
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be judged: all nodes, and how many replicas the shards are to have, in any order."""

    seats: tuple[Seat, ...]
    replicas: tuple[int, ...]

    def to_json(self) -> str:
        """For the judge as a program."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Case:
        """Read it."""
        raw = json.loads(text)
        return cls(tuple(Seat(**each) for each in raw["seats"]), tuple(raw["replicas"]))


class Wire:
    """One connection to a server, RESP2."""

    def __init__(self, port: int, timeout: float = TIMEOUT) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def send(self, *words: str | float) -> None:
        """A command, without waiting for its reply."""
        parts = [str(word).encode() for word in words]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts))

    def ask(self, *words: str | float) -> Any:
        """A command and its reply; raises `Refused` for an error."""
        self.send(*words)
        return self._read()

    def _read(self) -> Any:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server ended the connection")
        kind, rest = line[:1], line[1:-2]
        match kind:
            case b"+":
                return rest.decode()
            case b"-":
                raise Refused(rest.decode())
            case b":":
                return int(rest)
            case b"$":
                return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2].decode()
            case b"*":
                return None if rest == b"-1" else [self._read() for _ in range(int(rest))]
            case _:
                raise ValueError(f"no RESP2: {line!r}")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a line of CLUSTER NODES says of a node."""

    id: str
    port: int
    flags: frozenset[str]
    primary: str
    epoch: int
    link: str
    slots: tuple[str, ...]

    @property
    def story(self) -> tuple[str, str, tuple[str, ...], int]:
        """What all nodes must say alike: role, primary, slots, config epoch."""
        return ("replica" if "slave" in self.flags else "primary", self.primary, self.slots, self.epoch)


@dataclass(frozen=True, slots=True)
class Word:
    """Everything that one node said."""

    seat: Seat
    id: str
    nodes: str
    shown: Mapping[str, Shown]
    state: Mapping[str, str]
    replication: Mapping[str, str]
    listed: Sequence[Any]
    settings: Mapping[str, str]
    keys: int

    @property
    def own(self) -> Shown:
        """What it says of itself."""
        return self.shown[self.id]


def hear(seat: Seat) -> Word:
    """Ask one node; raises OSError if it does not answer, and `Refused`."""
    with Wire(seat.port) as wire:
        nodes = wire.ask("CLUSTER", "NODES")
        answers = [wire.ask("CONFIG", "GET", name) for name in WATCHED]
        return Word(
            seat=seat,
            id=wire.ask("CLUSTER", "MYID"),
            nodes=nodes,
            shown={line.split()[0]: _shown(line) for line in nodes.splitlines()},
            state=_fields(wire.ask("CLUSTER", "INFO")),
            replication=_fields(wire.ask("INFO", "replication")),
            listed=wire.ask("CLUSTER", "SLOTS"),
            settings={answer[0]: answer[1] for answer in answers if answer},
            keys=wire.ask("DBSIZE"),
        )


def configured(port: int) -> dict[str, str]:
    """The values of the watched settings that a server has now."""
    with Wire(port) as wire:
        answers = [wire.ask("CONFIG", "GET", name) for name in WATCHED]
    return {answer[0]: answer[1] for answer in answers if answer}


def _shown(line: str) -> Shown:
    node_id, where, flags, primary, _, _, epoch, link, *slots = line.split()
    port = where.partition(",")[0].rpartition(":")[2].partition("@")[0]
    follows = "" if primary == "-" else primary
    return Shown(node_id, int(port), frozenset(flags.split(",")), follows, int(epoch), link, tuple(slots))


def _fields(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {key: value.strip() for key, _, value in pairs}


def judge(case: Case) -> tuple[str, ...]:
    """Everything that keeps the cluster from being what a ready one is; empty if nothing does."""
    words = []
    for seat in case.seats:
        try:
            words.append(hear(seat))
        except (OSError, Refused) as error:
            return (f"{seat.name} cannot be asked: {error}",)
    found = [*_shape(case, words), *_slots(words), *_epochs(words)]
    own = {word.id: word for word in words}
    if len(own) < len(words):
        return ("two nodes have one id", *found)
    for word in words:
        told = [*_state(case, word), *_view(word, own), *_replication(word, own), *_listing(word, own), *_kept(word)]
        found += [f"{word.seat.name}: {text}" for text in told]
    return tuple(found)


def _shape(case: Case, words: Sequence[Word]) -> Iterator[str]:
    primaries = [word.id for word in words if word.own.story[0] == "primary"]
    following = Counter(word.own.primary for word in words if word.own.story[0] == "replica")
    shape = sorted(following[each] for each in primaries)
    if shape != sorted(case.replicas):
        yield f"the shards have {shape} replicas instead of {sorted(case.replicas)}"
    if strays := set(following) - set(primaries):
        yield f"replicas follow {', '.join(sorted(each[:8] for each in strays))}, which are no primaries"


def _slots(words: Sequence[Word]) -> Iterator[str]:
    owners: Counter[int] = Counter()
    for word in words:
        for low, high in _ranges(word.own.slots):
            owners.update(range(low, high + 1))
        if opened := [text for text in word.own.slots if text.startswith("[")]:
            yield f"{word.seat.name} has open slots {opened}"
    if len(owners) != SLOTS:
        yield f"{len(owners)} slots have an owner"
    if twice := [slot for slot, count in owners.items() if count > 1]:
        yield f"{len(twice)} slots have two owners"


def _ranges(slots: Sequence[str]) -> list[tuple[int, int]]:
    pairs = (text.partition("-") for text in slots if not text.startswith("["))
    return [(int(low), int(high or low)) for low, _, high in pairs]


def _epochs(words: Sequence[Word]) -> Iterator[str]:
    epochs = [word.own.epoch for word in words if word.own.story[0] == "primary"]
    if len(set(epochs)) < len(epochs):
        yield f"config epochs of the primaries are not distinct: {sorted(epochs)}"


def _state(case: Case, word: Word) -> Iterator[str]:
    expected = {
        "cluster_state": "ok",
        "cluster_slots_assigned": str(SLOTS),
        "cluster_slots_ok": str(SLOTS),
        "cluster_slots_pfail": "0",
        "cluster_slots_fail": "0",
        "cluster_known_nodes": str(len(case.seats)),
        "cluster_size": str(len(case.replicas)),
    }
    for key, value in expected.items():
        if word.state.get(key) != value:
            yield f"{key} is {word.state.get(key)} instead of {value}"


def _view(word: Word, own: Mapping[str, Word]) -> Iterator[str]:
    if set(word.shown) != set(own):
        yield f"knows {len(word.shown)} nodes, of which {len(set(word.shown) & set(own))} are of this cluster"
    for node_id, shown in word.shown.items():
        if node_id not in own:
            continue
        other = own[node_id]
        if odd := shown.flags - {"myself", "master", "slave"}:
            yield f"flags {other.seat.name} as {','.join(sorted(odd))}"
        if shown.link != "connected":
            yield f"has no link to {other.seat.name}"
        if shown.story != other.own.story:
            yield f"shows {other.seat.name} as {shown.story}, which calls itself {other.own.story}"
        if shown.port != other.seat.announced:
            yield f"knows {other.seat.name} by port {shown.port} instead of {other.seat.announced}"


def _replication(word: Word, own: Mapping[str, Word]) -> Iterator[str]:
    said, role = word.replication, word.own.story[0]
    if said["role"] != ("master" if role == "primary" else "slave"):
        yield f"replicates as {said['role']}, and calls itself a {role}"
        return
    if role == "primary":
        followers = sum(each.own.primary == word.id for each in own.values())
        if said["connected_slaves"] != str(followers):
            yield f"has {said['connected_slaves']} connected replicas instead of {followers}"
        return
    if said["master_link_status"] != "up" or said["master_sync_in_progress"] != "0":
        yield f"its replication link is {said['master_link_status']}"
    primary = own.get(word.own.primary)
    if primary is not None and said["master_port"] != str(primary.seat.announced):
        yield f"replicates from port {said['master_port']} instead of {primary.seat.announced}"


def _listing(word: Word, own: Mapping[str, Word]) -> Iterator[str]:
    expected = {
        (low, high): [each.id, *sorted(other.id for other in own.values() if other.own.primary == each.id)]
        for each in own.values()
        for low, high in _ranges(each.own.slots)
    }
    listed = {(low, high): [nodes[0][2], *sorted(each[2] for each in nodes[1:])] for low, high, *nodes in word.listed}
    for pair in sorted(expected.keys() | listed.keys()):
        want, have = expected.get(pair, []), listed.get(pair, [])
        if want != have:
            names = [[own[each].seat.name if each in own else each[:8] for each in ids] for ids in (have, want)]
            yield f"CLUSTER SLOTS gives {names[0]} for {pair[0]}-{pair[1]} instead of {names[1]}"


def _kept(word: Word) -> Iterator[str]:
    for name, value in word.seat.settings.items():
        if word.settings.get(name) != value:
            yield f"{name} is {word.settings.get(name)} instead of {value}"
    if word.own.story[0] == "primary" and word.keys:
        yield f"holds {word.keys} keys"


if __name__ == "__main__":
    json.dump(judge(Case.from_json(sys.stdin.read())), sys.stdout)
