"""What is wrong with a cluster, and whose fault it is: the pure diagnosis.

Each rule reads the evidence for one kind of trouble and names the guilty node. What no rule explains is told as the
nodes tell it, so that a cluster that is not healthy is never called so.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from bootstrap.judging.agreement import Agreement, DoubtKind, agree
from bootstrap.judging.connections import connections, protected
from bootstrap.judging.evidence import Evidence, Finding
from bootstrap.judging.views import NodeView, Silent, SilentCode, seen
from bootstrap.planning.slots import SLOTS, expand, format_ranges, merge
from bootstrap.planning.text import listing, plural

EVIDENCE_LINES = 3
"""How many lines of one kind a finding shows."""

NEEDED_COMMANDS = "+info +ping +config|get +cluster +function|list"


def diagnose(evidence: Evidence) -> tuple[Finding, ...]:
    """What is wrong: errors first, the most certain before the others; empty when nothing is."""
    agreement = agree(evidence.views, evidence.announced)
    found = [*_servers(evidence), *_silence(evidence), *_identities(evidence), *connections(evidence, agreement)]
    found += [
        *_strangers(evidence),
        *_handshakes(evidence, {finding.node for finding in found}),
        *_slots(evidence, agreement),
        *_epochs(evidence, agreement),
        *_replication(evidence, agreement),
        *_saving(evidence),
        *_settings(evidence),
        *_versions(evidence),
        *_topology(evidence, agreement),
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


def start_again(evidence: Evidence) -> str:
    """How servers of ours are started again."""
    return "start it again: the same `valkey-bootstrap create` does" if evidence.cluster else "start it"


def _servers(evidence: Evidence) -> Iterator[Finding]:
    for name, server in evidence.servers.items():
        if server.state == "missing":
            yield Finding(name, "server-missing", "its server is gone", start_again(evidence))
        elif server.state == "paused":
            thaw = f"`docker unpause {server.container}`" if server.container else f"`kill -CONT {server.detail[4:]}`"
            words = "is frozen: it takes connections and answers nobody"
            yield Finding(name, "server-paused", words, f"let it go on: {thaw}", evidence=(server.detail,))
        elif server.state == "stopped":
            cause, words = cause_in_log(server.log)
            if cause == "died":
                mend = f"see its log (`valkey-bootstrap logs {name}`), and {start_again(evidence)}"
                detail = (server.detail,) if server.detail else ()
                yield Finding(name, "server-stopped", "its server does not run", mend, evidence=detail)
            else:
                last = tuple(line.strip() for line in server.log.splitlines()[-2:] if line.strip())
                yield Finding(name, f"server-{cause}", f"its server ended: {words}", death_mend(cause), evidence=last)


def death_mend(cause: str) -> str:
    """What to do about a server that ended for a cause of `cause_in_log`."""
    return {
        "port-taken": "free its port, and its bus port, and start it again",
        "disk-full": "free some space, and start it again",
        "read-only": "make its folder writable, and start it again",
        "permission": "let its user write its folder, and start it again",
        "nodes-conf-unsaved": "make its folder writable and free some space, and start it again",
        "nodes-conf": "remove its nodes.conf: it comes back as a new node, and is to be forgotten as the old one",
    }.get(cause, "see its log, and start it again")


def _silence(evidence: Evidence) -> Iterator[Finding]:
    down = {name for name, server in evidence.servers.items() if server.state != "running"}
    for name, view in evidence.views.items():
        if isinstance(view, NodeView) and not view.cluster_mode:
            words = "start it with `cluster-enabled yes`"
            yield Finding(name, "no-cluster-mode", "is not in cluster mode", words, "cluster-enabled")
        elif isinstance(view, Silent) and name not in down and (finding := _silent(evidence, name, view)):
            yield finding


_SAID_WHY: Mapping[SilentCode, tuple[str, str, str, str]] = {
    # What a server that turned us away said -> the cause, in words, what to do, the guilty setting.
    "forbidden": (
        "acl-forbidden",
        "its user may not run a command",
        f"let the user run what this needs: `ACL SETUSER USER {NEEDED_COMMANDS}`",
        "ACL",
    ),
    "full": (
        "maxclients",
        "takes no more clients",
        "raise it: `CONFIG SET maxclients N`, or find who leaves connections open: `CLIENT LIST`",
        "maxclients",
    ),
    "no-answer": (
        "no-answer",
        "takes connections and does not answer in time",
        "see whether it is frozen (`kill -CONT PID`, `docker unpause`), busy (`SLOWLOG GET`) or swapping",
        "",
    ),
}


def _silent(evidence: Evidence, name: str, view: Silent) -> Finding | None:
    """Why a server that may well run said nothing; None where dials tell more."""
    if view.code == "login":
        return _login(name, view, [each for each, other in evidence.views.items() if not isinstance(other, Silent)])
    if view.code == "unreachable":
        return _unreachable(evidence, name, view)
    if view.code == "protected":
        return protected(name, view.reason)
    if view.code in _SAID_WHY:
        cause, words, mend, setting = _SAID_WHY[view.code]
        return Finding(name, cause, words, mend, setting, evidence=(view.reason,))
    return Finding(name, "silent", view.reason, f"see the log of {name}")


def _unreachable(evidence: Evidence, name: str, view: Silent) -> Finding | None:
    if not evidence.cluster and _linked(evidence, name):
        return Finding(
            name,
            "announced-unreachable",
            "is well among the other nodes, and what it announces does not work from here",
            "announce an address that works here, too; or give the addresses of all nodes that do, to be told how "
            "clients map them",
            "cluster-announce-ip",
            evidence=(view.reason,),
        )
    if _dialled(evidence, name):
        return None
    return Finding(name, "silent", view.reason, "see whether it runs, and whether its address is right")


def _linked(evidence: Evidence, name: str) -> bool:
    """Whether another node has a link to it, and nothing to say against it."""
    where = evidence.nodes[name].meet if name in evidence.nodes else None
    peers = (peer for view in seen(evidence.views).values() for peer in view.peers.values())
    return any(peer.address == where and peer.connected and not peer.faults for peer in peers)


def _dialled(evidence: Evidence, name: str) -> bool:
    """Whether dials tell more of a node that cannot be reached: it runs, or some place reaches it."""
    running = name in evidence.servers
    return running or any(dial.outcome == "open" for dial in evidence.dials if dial.node == name)


def _login(name: str, view: Silent, accepted: list[str]) -> Finding:
    if not accepted:
        mend = "give the password with --password-file or VALKEY_BOOTSTRAP_PASSWORD"
        return Finding(name, "login-refused", "refuses the login", mend, "requirepass", evidence=(view.reason,))
    missing = "required" in view.reason
    words = "asks for a password, and other nodes do not" if missing else "has another password than the other nodes"
    mend = "give all nodes the same: `CONFIG SET requirepass ...` and `CONFIG SET primaryauth ...`"
    return Finding(name, "password-differs", words, mend, "requirepass", evidence=(view.reason,))


def _identities(evidence: Evidence) -> Iterator[Finding]:
    first: dict[str, str] = {}
    for name, view in seen(evidence.views).items():
        other = first.setdefault(view.id, name)
        if other == name:
            continue
        runs = [evidence.told[each].info.get("run_id") for each in (name, other) if each in evidence.told]
        if len(runs) == 2 and runs[0] == runs[1]:
            yield Finding(name, "same-server", f"is the same server as {other}, under another address", "give it once")
            continue
        yield Finding(
            name,
            "same-node-id",
            f"has the node id of {other}: its nodes.conf is a copy",
            "stop it, remove its nodes.conf and its data, start it again, and let it join anew",
            "nodes.conf",
            evidence=(f"both call themselves {view.id}",),
        )


def _strangers(evidence: Evidence) -> Iterator[Finding]:
    nodes = seen(evidence.views)
    if len(nodes) < len(evidence.views):
        # It may be one of those that did not answer: their ids are not known.
        return
    ids = {view.id for view in nodes.values()}
    ours = {name: where.meet for name, where in evidence.nodes.items()}
    for name, view in nodes.items():
        for peer in view.peers.values():
            if peer.id in ids or peer.handshake:
                continue
            line = f"{name} knows {peer.id[:8]} at {peer.address} ({','.join(sorted(peer.flags))})"
            if peer.faults:
                mend = f"let every node forget it: `CLUSTER FORGET {peer.id}`"
                yield Finding("", "lost-node", f"a lost node is remembered: {peer.id[:8]}", mend,
                              evidence=(line,))  # fmt: skip
                continue
            reused = [each for each, where in ours.items() if where == peer.address]
            words = f"a node of another cluster has joined: {peer.id[:8]} at {peer.address}"
            if reused:
                words += f", the address of {reused[0]}"
            mend = f"reset it (`CLUSTER RESET HARD` on {peer.address}) and forget it here: `CLUSTER FORGET {peer.id}`"
            yield Finding("", "foreign-node", words, mend, evidence=(line,))


def _handshakes(evidence: Evidence, blamed: Collection[str]) -> Iterator[Finding]:
    before = seen(evidence.before)
    # Who cannot be reached is told once, and not again by everybody who tries.
    shut = {where.meet for name, where in evidence.nodes.items() if name in blamed}
    for name, view in seen(evidence.views).items():
        if name not in before or name in blamed:
            continue
        earlier = {peer.address for peer in before[name].peers.values() if peer.handshake}
        pending = {peer.address for peer in view.peers.values() if peer.handshake}
        for address in sorted((pending & earlier) - shut):
            lines = (str(d) for d in evidence.dials if d.address.host == address.host and d.outcome != "open")
            yield Finding(
                name,
                "handshake",
                f"does not get beyond the handshake with {address}",
                f"let it reach {address} and its bus port, and be reached from there",
                evidence=tuple(lines),
            )


def _slots(evidence: Evidence, agreement: Agreement) -> Iterator[Finding]:
    nodes = seen(evidence.views)
    owned = expand({pair for view in nodes.values() for pair in view.myself.slots})
    missing = frozenset(range(SLOTS)) - owned
    ids = {view.id: name for name, view in nodes.items()}
    # Of nodes that did not answer here: the others may well reach them, and then nothing is wrong with their slots.
    absent: set[int] = set()
    dead: dict[str, set[int]] = {}
    for view in nodes.values():
        for peer in view.peers.values():
            if peer.slots and peer.id not in ids and (lost := expand(peer.slots) & missing):
                absent |= lost
                if peer.faults:
                    dead.setdefault(str(peer.address), set()).update(lost)
    missing -= absent
    for address, theirs in dead.items():
        yield Finding(
            "",
            "slots-down",
            f"slots {format_ranges(merge(theirs))} belong to {address}, which does not answer",
            "bring it back, or let a replica of it take over: `CLUSTER FAILOVER TAKEOVER`",
        )
    if nodes and missing:
        text = format_ranges(merge(missing))
        yield Finding(
            "",
            "slots-uncovered",
            f"slots {text} have no primary",
            f"give them to one: `CLUSTER ADDSLOTSRANGE {_arguments(missing)}`",
        )
    for doubt in agreement.of("coverage"):
        if "claimed by" in doubt.text:
            mend = "let the one that is not to have them give them up: `CLUSTER DELSLOTSRANGE`"
            yield Finding("", "slots-twice", doubt.text, mend)
    for name, view in nodes.items():
        # A replica repeats what its primary has open.
        leader = nodes.get(ids.get(view.myself.primary or "", ""))
        if view.myself.open_slots and (leader is None or leader.myself.open_slots != view.myself.open_slots):
            numbers = [item.strip("[]").split("-")[0] for item in view.myself.open_slots]
            yield Finding(
                name,
                "open-slots",
                f"has {plural(len(numbers), 'slot')} half moved: {listing(numbers, 5)}",
                f"finish the move, or end it: `CLUSTER SETSLOT {numbers[0]} STABLE`",
                evidence=tuple(view.myself.open_slots),
            )


def _arguments(slots: frozenset[int]) -> str:
    return " ".join(f"{first} {last}" for first, last in merge(slots))


def _epochs(evidence: Evidence, agreement: Agreement) -> Iterator[Finding]:
    """The trap of equal epochs: who stored a raised epoch of a node ignores what it says once it is a replica."""
    nodes = seen(evidence.views)
    for doubt in agreement.of("belief"):
        holder, node = nodes[doubt.node], nodes[doubt.about]
        peer = holder.peers[node.id]
        primary = holder.peers.get(node.myself.primary or "")
        if node.myself.role != "replica" or peer.role != "primary" or primary is None or peer.epoch <= primary.epoch:
            continue
        names = {view.id: name for name, view in nodes.items()}
        leader = names.get(primary.id, primary.id[:8])
        yield Finding(
            doubt.about,
            "epoch-trap",
            "is a replica, and is for ever shown as a primary without slots: a higher epoch of it was stored before",
            f"raise the epoch of its primary over {peer.epoch}: `CLUSTER BUMPEPOCH` on {leader}, as often as needed",
            "config epoch",
            evidence=(f"{doubt.node} has epoch {peer.epoch} for it, and {primary.epoch} for {leader}",),
        )


def _replication(evidence: Evidence, agreement: Agreement) -> Iterator[Finding]:
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


def _saving(evidence: Evidence) -> Iterator[Finding]:
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


def _settings(evidence: Evidence) -> Iterator[Finding]:
    by_timeout: dict[str, list[str]] = {}
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


def _versions(evidence: Evidence) -> Iterator[Finding]:
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


def _topology(evidence: Evidence, agreement: Agreement) -> Iterator[Finding]:
    layout = agreement.layout
    if layout is None:
        return
    serving = [shard for shard in layout.shards if shard.slots]
    if 0 < len(serving) < 3:
        yield Finding(
            "",
            "few-primaries",
            f"{plural(len(serving), 'primary', 'primaries')} cannot elect a successor when one is lost",
            "use 3 primaries or more where failovers matter",
            level="warning",
        )
    hosts = _hosts(evidence)
    if len(set(hosts.values())) < 2:
        return
    for shard in serving:
        for replica in shard.replicas:
            if hosts.get(replica) is not None and hosts.get(replica) == hosts.get(shard.primary):
                yield Finding(
                    replica,
                    "shares-host",
                    f"is on the same machine as its primary {shard.primary}: {hosts[replica]}",
                    "let it follow a primary of another machine: `CLUSTER REPLICATE ID`",
                    level="warning",
                )


def _hosts(evidence: Evidence) -> Mapping[str, str]:
    """Where nodes are: as declared, and for servers of others by their addresses, which is all there is."""
    if evidence.places:
        return {name: place.host for name, place in evidence.places.items()}
    return {name: where.meet.host for name, where in evidence.nodes.items()}


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
    "state": ("not-ok", "", "see what the other nodes lack"),
}


def _rest(evidence: Evidence, agreement: Agreement, found: list[Finding]) -> Iterator[Finding]:
    """Doubts that no finding explains."""
    errors = [finding for finding in found if finding.level == "error"]
    blamed = {finding.node for finding in errors}
    told = {"silent", "mode", "identity", "coverage", "open", "replication", "stranger"}
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
            yield Finding(doubt.about, cause, words, mend, evidence=(f"{doubt.node} {doubt.text}",))
        else:
            yield Finding(doubt.node, cause, doubt.text, mend)


_LOG_CAUSES: tuple[tuple[str, str, str], ...] = (
    # What the servers write before they die, the stable name of the cause, and what it means.
    ("Address already in use", "port-taken", "its port is in use"),
    ("can't update cluster config file", "nodes-conf-unsaved", "it could not save its nodes.conf"),
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
