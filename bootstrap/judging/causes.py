"""What is wrong with a cluster, and whose fault it is: the pure diagnosis.

Each rule reads the evidence for one kind of trouble and names the guilty node. What no rule explains is told as the
nodes tell it, so that a cluster that is not healthy is never called so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from bootstrap.judging import beliefs, conduct, silence
from bootstrap.judging.agreement import Agreement, DoubtKind, agree
from bootstrap.judging.connections import connections, one_way
from bootstrap.judging.evidence import Evidence, Finding
from bootstrap.judging.views import Silent

EVIDENCE_LINES = 3
"""How many lines of one kind a finding shows."""


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """What is wrong: errors first, the most certain before the others; empty when nothing is."""
    agreement = agree(evidence.views, evidence.announced)
    found = [*silence.ended(evidence), *silence.silence(evidence), *beliefs.identities(evidence)]
    found += connections(evidence, agreement)
    found += [
        *beliefs.strangers(evidence),
        *beliefs.handshakes(evidence, {finding.node for finding in found}),
        *beliefs.slots(evidence, agreement),
        *beliefs.epochs(evidence, agreement),
        *conduct.replication(evidence, agreement),
        *conduct.saving(evidence),
        *conduct.settings(evidence),
        *conduct.versions(evidence),
        *beliefs.topology(evidence, agreement),
    ]
    found += _rest(evidence, agreement, found)
    merged = _merge(found)
    return tuple(sorted(merged, key=lambda finding: finding.level == "warning"))


def _merge(found: Iterable[Finding]) -> Iterator[Finding]:
    """Equal findings once, with the evidence of all."""
    first: dict[tuple[str, str, str], Finding] = {}
    for finding in found:
        key = (finding.node, finding.cause, finding.text)
        known = first.get(key)
        first[key] = finding if known is None else replace(known, evidence=(*known.evidence, *finding.evidence))
    for finding in first.values():
        lines = tuple(dict.fromkeys(finding.evidence))
        more = len(lines) - EVIDENCE_LINES
        shown = lines[:EVIDENCE_LINES] if more > 1 else lines
        yield replace(finding, evidence=(*shown, f"and {more} more like that") if more > 1 else shown)


_UNEXPLAINED: Mapping[DoubtKind, tuple[str, str, str]] = {
    # Kind -> the cause, the words where another node says it, what to do.
    "belief": (
        "views-differ",
        "is shown in another role than its own",
        "wait some seconds; if it stays so, look for `Ignore stale message` in the logs",
    ),
    "flag": (
        "flagged",
        "is taken for failing",
        "see whether it is overloaded, and whether its bus port can be reached",
    ),
    "link": ("no-link", "is not linked to all others", "see whether its bus port can be reached from there"),
    "unknown": ("unknown", "is not known to all others", "introduce them: `CLUSTER MEET`"),
    "hidden": (
        "hidden-replica",
        "is not in CLUSTER SLOTS of all others",
        "wait some seconds: it is listed when its replication offset was heard of",
    ),
    "address": (
        "announced-other",
        "is announced at another address than planned",
        "correct what it announces, and wait some seconds",
    ),
    "state": (
        # `clusterUpdateState`: CLUSTER_MAX_REJOIN_DELAY.
        "not-ok",
        "",
        "wait: a primary whose majority was missing says ok again up to 5 s after it is back; then see its log",
    ),
}


def _rest(evidence: Evidence, agreement: Agreement, found: list[Finding]) -> Iterator[Finding]:
    """Doubts that no finding explains."""
    errors = [finding for finding in found if finding.level == "error"]
    blamed = {finding.node for finding in errors}
    told = {"silent", "mode", "identity", "coverage", "open", "replication", "stranger"}
    if any(finding.cause == "login-refused" for finding in errors):
        # No node told anything.
        return
    down = {name: view.reason for name, view in evidence.views.items() if isinstance(view, Silent)}
    for name, reason in down.items():
        if name not in blamed:
            yield Finding(name, "silent", reason, f"see the log of {name}")
    shut = {f"is in handshake with {where.meet}" for name, where in evidence.nodes.items() if name in blamed}
    for doubt in agreement.doubts:
        if doubt.kind in told or blamed & {doubt.node, doubt.about} or (down and doubt.kind == "flag"):
            continue
        if (doubt.kind == "state" and errors) or doubt.text in shut:
            continue
        cause, words, mend = _UNEXPLAINED.get(doubt.kind, (doubt.kind, "", ""))
        if doubt.about and words:
            links = one_way(evidence, doubt.about) if doubt.kind == "link" else ()
            yield Finding(doubt.about, cause, words, mend, evidence=(f"{doubt.node} {doubt.text}", *links))
        else:
            yield Finding(doubt.node, cause, doubt.text, mend)
