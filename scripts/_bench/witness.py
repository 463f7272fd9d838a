"""Who says when a cluster is ready, whatever the tool that forms it says.

Four clocks, all from the moment the tool's process is spawned. Each stops when the last node is right:

==========  =====================================================================================================
``roles``   every node knows every other one, without handshakes and without failing ones; all show the same ids,
            roles, primaries and slots, with all slots covered and the expected number of replicas
``state``   every node says ``cluster_state:ok``
``links``   every replica says ``master_link_status:up``
``listed``  every node lists every node in CLUSTER SLOTS, replicas included: that is where clients learn of them
==========  =====================================================================================================

The last of them is *ready*. So that servers do not notice: a node is asked only for what it is not right for yet,
CLUSTER NODES only when its CLUSTER INFO looks right, and CLUSTER SLOTS only after that.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from scripts._bench.link import Answers, Link, Question, field

Clock = Literal["roles", "state", "links", "listed"]
CLOCKS: tuple[Clock, ...] = get_args(Clock)

SLOTS = 16384
_FAULTS = ("cluster_slots_pfail", "cluster_slots_fail", "cluster_nodes_pfail", "cluster_nodes_fail")
_ID = re.compile(rb"\$40\r\n([0-9a-f]{40})\r\n")

EVERYTHING: tuple[Question, ...] = ("CLUSTER INFO", "INFO replication", "CLUSTER NODES", "CLUSTER SLOTS")

Line = tuple[bytes, bool, bytes, tuple[bytes, ...]]
"""A node in a view: id, whether it is a replica, the id of its primary, slots."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is expected: all nodes, and how many of them are replicas."""

    nodes: int
    replicas: int

    @classmethod
    def of(cls, nodes: int) -> Shape:
        """One replica for each primary, as far as there are three primaries, and the node left over is a replica."""
        return cls(nodes, nodes - nodes // 2 if nodes >= 6 else 0)

    @property
    def replicas_each(self) -> int:
        """Replicas of each primary, as both tools are told."""
        return 1 if self.replicas else 0


@dataclass(frozen=True, slots=True)
class View:
    """A node's complete view of all nodes, and whether it is a replica itself."""

    lines: frozenset[Line]
    replica: bool


def poll_seconds(nodes: int) -> float:
    """Seconds between two looks: a view has N lines and N nodes have one, so it grows with N."""
    if nodes <= 48:
        return 0.02
    return 0.1 if nodes <= 100 else 0.25


class Witness:
    """Looks at the servers again and again, and keeps the clocks.

    ``flagged`` are the nodes that showed another one as failing, or possibly failing, at any time. ``fell_back`` counts
    how often each clock had stopped and was found not to hold at the end.

    Args:
        links: a connection to each server.
        shape: what is expected of them.
        began: when the tool was spawned (`time.monotonic`).
    """

    def __init__(self, links: Sequence[Link], shape: Shape, began: float) -> None:
        self.flagged: set[int] = set()
        self.fell_back: Counter[Clock] = Counter()
        self._links, self._shape, self._began = links, shape, began
        self._restart()

    @property
    def clocks(self) -> Mapping[Clock, float | None]:
        """Seconds of each clock; None for one that has not stopped."""
        return {clock: None if self._waiting[clock] else round(self._last[clock], 4) for clock in CLOCKS}

    @property
    def ready(self) -> float | None:
        """Seconds of the last clock; None as long as one of them has not stopped."""
        return None if any(self._waiting.values()) else round(max(self._last.values()), 4)

    @property
    def left(self) -> Mapping[Clock, int]:
        """Clock -> nodes that are not right for it."""
        return {clock: len(nodes) for clock, nodes in self._waiting.items() if nodes}

    def look(self) -> None:
        """Ask each node once for what it is not right for."""
        promising = []
        for node, answers in self._ask({node: self._questions(node) for node in range(len(self._links))}):
            if self._judge(node, answers):
                promising.append(node)
        for node, answers in self._ask({node: ["CLUSTER NODES"] for node in promising}):
            self._judge_view(node, answers["CLUSTER NODES"])
        self._compare()

    def look_again(self) -> bool:
        """Ask every node everything once more; whether all is as it was. A clock that does not hold goes on."""
        kept = self._last
        self._restart()
        for node, answers in self._ask(dict.fromkeys(range(len(self._links)), EVERYTHING)):
            self._judge(node, answers)
            self._judge_view(node, answers["CLUSTER NODES"])
        self._compare()
        for clock in CLOCKS:
            if self._waiting[clock]:
                self.fell_back[clock] += 1
            else:
                self._last[clock] = kept[clock]
        return not self.left

    def _restart(self) -> None:
        everyone = range(len(self._links))
        self._waiting: dict[Clock, set[int]] = {clock: set(everyone) for clock in CLOCKS}
        if not self._shape.replicas:
            self._waiting["links"].clear()
        self._last: dict[Clock, float] = dict.fromkeys(CLOCKS, 0.0)
        self._views: dict[int, View] = {}
        self._up: set[int] = set()

    def _ask(self, questions: Mapping[int, Sequence[Question]]) -> Iterator[tuple[int, Answers]]:
        """All are asked before the first answer is read."""
        for node, asked in questions.items():
            if asked:
                self._links[node].send(asked)
        for node, asked in questions.items():
            if asked:
                yield node, self._links[node].receive()

    def _questions(self, node: int) -> list[Question]:
        questions: list[Question] = []
        if node in self._waiting["state"] or node in self._waiting["roles"]:
            questions.append("CLUSTER INFO")
        if node in self._waiting["links"]:
            questions.append("INFO replication")
        if node in self._waiting["listed"] and node not in self._waiting["roles"]:
            questions.append("CLUSTER SLOTS")
        return questions

    def _judge(self, node: int, answers: Answers) -> bool:
        """Take answers; whether the node's view is worth being asked for."""
        if b"master_link_status:up" in answers.get("INFO replication", b""):
            self._up.add(node)
            self._right("links", node)
            if len(self._up) == self._shape.replicas:
                self._waiting["links"].clear()
        if len(set(_ID.findall(answers.get("CLUSTER SLOTS", b"")))) == self._shape.nodes:
            self._right("listed", node)
        info = answers.get("CLUSTER INFO", b"")
        if any(field(info, fault) for fault in _FAULTS):
            self.flagged.add(node)
        if b"cluster_state:ok" in info:
            self._right("state", node)
        return (
            node in self._waiting["roles"]
            and field(info, "cluster_known_nodes") == self._shape.nodes
            and field(info, "cluster_size") == self._shape.nodes - self._shape.replicas
            and field(info, "cluster_slots_assigned") == SLOTS
        )

    def _judge_view(self, node: int, text: bytes) -> None:
        if b"fail" in text:  # "fail" and "fail?"; an id is hexadecimal, and names are not shown with a port
            self.flagged.add(node)
        view = read_view(text, self._shape)
        if view is not None:
            self._views[node] = view
            self._right("roles", node)
            if not view.replica:
                self._waiting["links"].discard(node)

    def _compare(self) -> None:
        """Complete views that differ from most others are not right yet."""
        if self._waiting["roles"]:
            return
        counts = Counter(view.lines for view in self._views.values())
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            self._waiting["roles"] = {node for node, view in self._views.items() if view.lines != usual}

    def _right(self, clock: Clock, node: int) -> None:
        if node in self._waiting[clock]:
            self._waiting[clock].discard(node)
            self._last[clock] = time.monotonic() - self._began


def read_view(text: bytes, shape: Shape) -> View | None:
    """A node's CLUSTER NODES, if it is complete and has the expected shape; None otherwise."""
    if b"handshake" in text or b"noaddr" in text or b"fail" in text:
        return None
    if text.count(b"\n") != shape.nodes or text.count(b"slave") != shape.replicas:
        return None
    lines, replica = set(), False
    for line in text.splitlines():
        node_id, _, flags, primary, _, _, _, _, *slots = line.split()
        lines.add((node_id, b"slave" in flags, primary, tuple(slots)))
        replica = replica or flags == b"myself,slave"
    primaries = {node_id for node_id, is_replica, _, slots in lines if slots and not is_replica}
    covered = sum(_width(slots) for line in lines for slots in line[3])
    if covered != SLOTS or len(primaries) != shape.nodes - shape.replicas:
        return None
    if not all(primary in primaries for _, is_replica, primary, _ in lines if is_replica):
        return None
    return View(frozenset(lines), replica)


def _width(slots: bytes) -> int:
    """How many slots ``0-5460`` or ``7`` are; none for a slot that is on its way."""
    if slots.startswith(b"["):
        return 0
    first, _, last = slots.partition(b"-")
    return int(last or first) - int(first) + 1
