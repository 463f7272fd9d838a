"""How fast servers are made to talk while they form, and who is told to speak up.

A node's slots and role reach another node only in a message of its own (gossip carries neither), and messages cost:
a round of pings is the square of the nodes. Up to `BRISK_UP_TO` nodes everyone pings everyone ten times a second,
which takes away all waiting. With more nodes, or on a machine that does not keep up, that would be what everybody
waits for. Then nodes are calm: they link up, and after that those of whom somebody has a wrong idea are told to
speak, all the others keep silent. (Waiting for the next ping does not do: gossip that a node was seen alive puts off
one's own ping to it, see `clusterProcessGossipSection`, so that some pairs are silent for a long time.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bootstrap.judging.agreement import Agreement, Doubt
from bootstrap.judging.views import Views, parse_info, seen

BRISK_UP_TO = 48
"""Measured: on two cores 48 nodes still form within a second this way, and 100 flag each other as failing."""

BRISK_IN_CONTAINERS_UP_TO = 24
"""The same for nodes whose packets go over a bridge and through address translation: 36 already flag each other."""

HEAD_START_FROM = 25
"""From so many nodes on, those that answer are introduced while others are still being started. Fewer have been formed
long before the first of them may say ok."""

SLOW_SECONDS = 0.25
"""A round trip that takes longer means that the machine does not keep up."""

STRAGGLERS = 0.1
"""The share of nodes that may still be linking when others speak."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Times in milliseconds: how long a node is not pinged at most, and how long it may be silent before it is flagged.

    The second one is also how long a primary that had no majority waits before it says ok, at least 0.5 and at most
    5 seconds (`clusterUpdateState`).
    """

    ping: int
    timeout: int


BRISK = Pace(100, 500)
CALM = Pace(4000, 15000)


def pace_for(nodes: int, *, pings: bool = True, containers: bool = False) -> Pace:
    """The pace to begin with.

    Args:
        nodes: how many form.
        containers: they are in containers.
        pings: the servers have `cluster-ping-interval`. Without it (Redis 7.0) they ping after half the timeout, which
            then has to serve for both: low enough to be quick, and high enough to flag nobody.
    """
    if pings:
        return BRISK if nodes <= (BRISK_IN_CONTAINERS_UP_TO if containers else BRISK_UP_TO) else CALM
    return Pace(0, 500 if nodes <= 12 else 1000 if nodes <= 48 else 2000 if nodes <= 100 else 5000)


def slower(pace: Pace) -> Pace | None:
    """What to go on with where the servers cannot keep up; None where nothing slower would help."""
    if pace.timeout >= CALM.timeout:
        return None
    return CALM if pace.ping else Pace(0, min(4 * pace.timeout, CALM.timeout))


def strained(agreement: Agreement, round_trip: float) -> bool:
    """Whether the machine does not keep up: slow answers, or nodes that suspect others."""
    return round_trip > SLOW_SECONDS or bool(_suspicions(agreement))


def _suspicions(agreement: Agreement) -> tuple[Doubt, ...]:
    """Flags that a node has not been told of, but raises itself."""
    return tuple(doubt for doubt in agreement.of("flag") if "fail?" in doubt.text)


def speakers(views: Views, agreement: Agreement) -> tuple[str, ...]:
    """Who has to speak, in a calm cluster: those of whom somebody has a wrong idea, and those who are wrong themselves.

    These know too few, or flag somebody, and the answer to a ping takes the flag away.
    Nobody while many nodes are still being linked: a ping without a link goes nowhere, and linking is work enough.
    """
    nodes = seen(views)
    linking = {doubt.node for doubt in agreement.of("link")}
    if agreement.of("silent", "mode", "identity") or len(linking) > len(nodes) * STRAGGLERS:
        return ()
    named = {doubt.about for doubt in agreement.of("belief", "address")}
    named |= {doubt.node for doubt in agreement.of("unknown", "flag")}
    # Before its link is up a replica has no offset to tell.
    named |= {doubt.about for doubt in agreement.of("hidden") if nodes[doubt.about].offset}
    return tuple(name for name in nodes if name in named)


def ready_to_settle(views: Views, agreement: Agreement) -> tuple[str, ...]:
    """Who only waits for a time that its own timeout decides: all else about them is as it should be.

    Primaries do before they say ok; and a node that flagged a primary with slots keeps the flag for twice its timeout,
    though it is answered again (`clearNodeFailureIfNeeded`).
    """
    if agreement.of("silent", "mode", "identity", "link", "unknown", "coverage") or _suspicions(agreement):
        return ()
    flagging = {doubt.node for doubt in agreement.of("flag")}
    if flagging:
        return tuple(name for name in seen(views) if name in flagging)
    if agreement.of("belief"):
        return ()
    lacking = {doubt.node for doubt in agreement.of("state")}
    return tuple(name for name, view in seen(views).items() if name in lacking and view.myself.role == "primary")


Asked = Literal["meet", "replicate", ""]
"""What takes servers a while, of what was just asked of them."""


@dataclass(frozen=True, slots=True)
class Glance:
    """A few numbers of one node, for a fraction of what a look costs it.

    Args:
        known: how many nodes it knows, handshakes included.
        ok: whether its ``cluster_state`` is ok.
        link: the replication link of a replica, ``up`` or ``down``; "" for a primary.
    """

    known: int
    ok: bool
    link: str


def read_glance(cluster: str, replication: str) -> Glance:
    """Of CLUSTER INFO and INFO replication; what is missing counts as 0.

    Raises:
        ValueError: a number that is none.
    """
    state, link = parse_info(cluster), parse_info(replication)
    return Glance(
        known=int(state.get("cluster_known_nodes", 0)),
        ok=state.get("cluster_state") == "ok",
        link=link.get("master_link_status", "") if link.get("role") == "slave" else "",
    )


Glances = Sequence[Glance | None]
"""Of all nodes; None of one that did not answer."""


def worth_a_look(glances: Glances, before: Glances, agreement: Agreement, *, replicas: int, asked: Asked) -> bool:
    """Whether another look may show what the last one lacked.

    Args:
        glances: the last ones.
        before: those before them, empty at first.
        agreement: of the last look.
        replicas: how many nodes are to follow another one.
        asked: what the steps after it asked for.
    """
    answers = [glance for glance in glances if glance is not None]
    if len(answers) < len(glances):
        return True
    if asked == "meet" or agreement.of("unknown", "link"):
        # Where nothing moves any more, a look shows who has to be helped.
        return glances == before or all(glance.known >= len(answers) for glance in answers)
    if asked == "replicate" or agreement.of("replication"):
        return sum(glance.link == "up" for glance in answers) >= replicas
    if agreement.of("state") and not agreement.of("belief", "hidden", "address"):
        return all(glance.ok for glance in answers)
    return True
