"""Why a cluster did not form: the pure diagnosis, from what the nodes said and what dialling them showed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from bootstrap.judging.agreement import Agreement, agree
from bootstrap.judging.views import Silent, Views
from bootstrap.planning.addressing import Address
from bootstrap.planning.text import plural

Outcome = Literal["open", "refused", "silent", "unreachable", "unresolvable"]

_WORDS: Mapping[str, str] = {
    "refused": "refuses connections",
    "silent": "does not answer",
    "unreachable": "cannot be routed to",
    "unresolvable": "cannot be resolved",
}


@dataclass(frozen=True, slots=True)
class Dial:
    """One attempt to open a TCP connection: to which node's which port, from where, and how it ended."""

    node: str
    port: Literal["data", "bus"]
    address: Address
    vantage: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a cluster that did not form."""

    views: Views
    dials: tuple[Dial, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One likely cause: the node, a stable name, what is wrong in words, and what to do."""

    node: str
    cause: str
    text: str
    hint: str = ""


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """The likely causes, the most certain first; empty when nothing is known to be wrong."""
    agreement = agree(evidence.views)
    return (*_silent(evidence), *_ports(evidence), *_shown_wrong(agreement), *_replication(agreement))


def _silent(evidence: Evidence) -> Iterator[Finding]:
    for name, view in evidence.views.items():
        if isinstance(view, Silent):
            yield Finding(name, "silent", view.reason, f"see the log of {name}")
        elif not view.cluster_mode:
            yield Finding(name, "no-cluster-mode", "is not in cluster mode", "start it with cluster-enabled yes")


def _ports(evidence: Evidence) -> Iterator[Finding]:
    silent = {name for name, view in evidence.views.items() if isinstance(view, Silent)}
    for dial in evidence.dials:
        # A server that is down has both ports shut; that is told once, as its silence.
        if dial.outcome == "open" or dial.node in silent:
            continue
        kind = "bus port" if dial.port == "bus" else "data port"
        yield Finding(
            dial.node,
            f"{dial.port}-port-blocked",
            f"{kind} {dial.address} {_WORDS[dial.outcome]} (dialled from {dial.vantage})",
            f"let the nodes reach {dial.address}: a firewall rule, or a port that is not published",
        )


def _shown_wrong(agreement: Agreement) -> Iterator[Finding]:
    believers: dict[str, list[str]] = {}
    for doubt in agreement.of("belief"):
        believers.setdefault(doubt.about, []).append(doubt.node)
    for node, others in believers.items():
        text = f"is shown in another role than its own by {plural(len(others), 'node')}"
        yield Finding(
            node,
            "views-differ",
            text,
            "allow more time with --timeout; if it stays so, look for `Ignore stale message` in the logs",
        )


def _replication(agreement: Agreement) -> Iterator[Finding]:
    for doubt in agreement.of("replication"):
        yield Finding(doubt.node, "replication-down", doubt.text, f"see `valkey-bootstrap logs {doubt.node}`")


_LOG_CAUSES: tuple[tuple[str, str, str], ...] = (
    # What the servers write before they die, the stable name of the cause, and what it means.
    ("Address already in use", "port-taken", "its port is in use"),
    ("No space left on device", "disk-full", "the disk is full"),
    ("Read-only file system", "read-only", "its folder is on a read-only file system"),
    ("Permission denied", "permission", "it may not write its folder"),
    ("Out Of Memory", "memory", "it ran out of memory"),
    ("Can't open the append-only", "append-only", "its append-only file cannot be opened"),
    ("Bad file format reading the append only file", "append-only", "its append-only file is damaged"),
    ("Unrecoverable error: corrupted cluster config", "nodes-conf", "its nodes.conf is damaged"),
    ("FATAL CONFIG FILE ERROR", "bad-setting", "it refuses its configuration"),
)


def cause_in_log(log: str) -> tuple[str, str]:
    """A stable name and words for why a server died, from its log; ``died`` where the log says nothing known."""
    for mark, cause, words in _LOG_CAUSES:
        if mark.lower() in log.lower():
            return cause, words
    return "died", "it ended"
