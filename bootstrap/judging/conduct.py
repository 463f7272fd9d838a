"""What is wrong with how nodes work: replication, saving, settings, versions."""

from __future__ import annotations

from collections.abc import Iterator

from bootstrap.judging.agreement import Agreement
from bootstrap.judging.evidence import Evidence, Finding
from bootstrap.judging.views import NodeView, seen
from bootstrap.planning.text import listing


def replication(evidence: Evidence, agreement: Agreement) -> Iterator[Finding]:
    """Replicas without their primary."""
    nodes = seen(evidence.views)
    names = {view.id: name for name, view in nodes.items()}
    for doubt in agreement.of("replication"):
        name = doubt.node
        primary = names.get(nodes[name].myself.primary or "", "")
        mine, theirs = evidence.told.get(name), evidence.told.get(primary)
        lines = _last_with(evidence, name, ("MASTER", "PRIMARY", "SYNC"))
        refused = any(mark in line for line in lines for mark in ("NOAUTH", "WRONGPASS", "AUTH"))
        if mine and theirs and "requirepass" in theirs.secrets:
            wanted, given = theirs.secrets["requirepass"], mine.secrets.get("masterauth", "")
            refused = refused or (bool(wanted) and wanted != given)
        if refused:
            yield Finding(
                name,
                "replica-login",
                f"cannot log in to its primary {primary}".rstrip(),
                f"give it the password of {primary or 'its primary'}: `CONFIG SET primaryauth ...`",
                "primaryauth",
                evidence=lines,
            )
            continue
        blocked = tuple(
            str(dial)
            for dial in evidence.dials
            if (dial.source, dial.node, dial.port) == (name, primary, "data") and dial.outcome != "open"
        )
        if not blocked:
            words = f"its replication link to {primary or 'its primary'} is down"
            yield Finding(name, "replication-down", words, f"see the log of {name}", evidence=lines)


def _last_with(evidence: Evidence, node: str, marks: tuple[str, ...]) -> tuple[str, ...]:
    """The last line of a node's log with one of these words."""
    server = evidence.servers.get(node)
    lines = server.log.splitlines() if server is not None else []
    return tuple(line.strip() for line in lines if any(mark in line for mark in marks))[-1:]


def saving(evidence: Evidence) -> Iterator[Finding]:
    """Servers that cannot write to their disk."""
    for name, told in evidence.told.items():
        failing = [
            what
            for key, what in (
                ("aof_last_write_status", "its append-only file"),
                ("rdb_last_bgsave_status", "a snapshot"),
            )
            if told.info.get(key, "ok") != "ok"
        ]
        if failing:
            yield Finding(
                name,
                "cannot-save",
                f"cannot write {listing(failing)}, and so refuses writes",
                "free some space, and make its folder writable",
                "dir",
                evidence=_last_with(evidence, name, ("No space left", "Read-only", "Permission denied", "rror")),
            )


def settings(evidence: Evidence) -> Iterator[Finding]:
    """Settings that are not what they are to be, or not the same everywhere."""
    by_timeout: dict[str, list[str]] = {}
    for name, told in evidence.told.items():
        preferred = told.settings.get("cluster-preferred-endpoint-type")
        if preferred == "hostname" and not told.settings.get("cluster-announce-hostname"):
            yield Finding(
                name,
                "no-hostname",
                "is to send clients to host names, and announces none: they are sent to `?`",
                "announce one: `CONFIG SET cluster-announce-hostname NAME`; or send them to addresses: `CONFIG SET "
                "cluster-preferred-endpoint-type ip` on all nodes",
                "cluster-announce-hostname",
            )
    for name, told in evidence.told.items():
        expected = evidence.expected.get(name, {})
        low = {
            key: told.settings[key] for key in expected if key in told.settings and told.settings[key] != expected[key]
        }
        if low:
            yield Finding(
                name,
                "formation-settings",
                "has settings that differ from its configuration: an interrupted formation leaves them",
                "run the same `valkey-bootstrap create` again: it puts them back",
                listing(list(low)),
                evidence=tuple(f"{key} is {value}, configured is {expected[key]}" for key, value in low.items()),
                level="warning",
            )
        if timeout := told.settings.get("cluster-node-timeout"):
            by_timeout.setdefault(timeout, []).append(name)
    if len(by_timeout) > 1:
        common = max(by_timeout, key=lambda value: len(by_timeout[value]))
        for timeout, names in by_timeout.items():
            for name in names if timeout != common else ():
                yield Finding(
                    name,
                    "node-timeout",
                    f"has another node timeout than most: {timeout} ms instead of {common} ms",
                    f"make them equal: `CONFIG SET cluster-node-timeout {common}`, and in its configuration",
                    "cluster-node-timeout",
                    level="warning",
                )


def versions(evidence: Evidence) -> Iterator[Finding]:
    """Servers that may not understand each other."""
    nodes = seen(evidence.views)
    names = {view.id: name for name, view in nodes.items()}
    kinds: dict[str, list[str]] = {}
    for name, view in nodes.items():
        kinds.setdefault(f"{view.flavor} {view.version[0]}.{view.version[1]}", []).append(name)
        leader = nodes.get(names.get(view.myself.primary or "", ""))
        if leader is not None and (view.flavor, view.version[:2]) != (leader.flavor, leader.version[:2]):
            older = view.version[:2] < leader.version[:2] or view.flavor != leader.flavor
            if older:
                yield Finding(
                    name,
                    "replica-older",
                    "is older than its primary, and may not understand what that sends",
                    "upgrade replicas before their primaries",
                    "version",
                    evidence=(f"{_version(view)}, and {names[leader.id]} is {_version(leader)}",),
                    level="warning" if view.link == "up" else "error",
                )
    if len(kinds) > 1:
        words = "; ".join(f"{kind}: {listing(members, 3)}" for kind, members in sorted(kinds.items()))
        mend = "give all the same version; the oldest one decides what they can do together"
        yield Finding("", "mixed-versions", f"nodes have different versions: {words}", mend, level="warning")


def _version(view: NodeView) -> str:
    return f"{view.flavor} {'.'.join(map(str, view.version))}"
