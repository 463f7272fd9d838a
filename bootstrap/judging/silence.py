"""Why a server does not run, or does not talk to us: from its process or container, its log, and its refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bootstrap.judging.connections import protected
from bootstrap.judging.evidence import Evidence, Finding
from bootstrap.judging.views import NodeView, Silent, SilentCode, seen

NEEDED_COMMANDS = "+info +ping +config|get +cluster +function|list"


def _start_again(evidence: Evidence) -> str:
    """How servers of ours are started again."""
    return "start it again: the same `valkey-bootstrap create` does" if evidence.cluster else "start it"


def ended(evidence: Evidence) -> Iterator[Finding]:
    """Servers that are gone, stopped or frozen."""
    for name, server in evidence.servers.items():
        if server.state == "missing":
            yield Finding(name, "server-missing", "its server is gone", _start_again(evidence))
        elif server.state == "paused":
            thaw = f"`docker unpause {server.container}`" if server.container else f"`kill -CONT {server.detail[4:]}`"
            words = "is frozen: it takes connections and answers nobody"
            yield Finding(name, "server-paused", words, f"let it go on: {thaw}", evidence=(server.detail,))
        elif server.state == "stopped":
            cause, words = cause_in_log(server.log)
            if cause == "died":
                mend = f"see its log (`valkey-bootstrap logs {name}`), and {_start_again(evidence)}"
                detail = (server.detail,) if server.detail else ()
                yield Finding(name, "server-stopped", "its server does not run", mend, evidence=detail)
            else:
                last = tuple(line.strip() for line in server.log.splitlines()[-2:] if line.strip())
                yield Finding(name, f"server-{cause}", f"its server ended: {words}", _death_mend(cause), evidence=last)


def _death_mend(cause: str) -> str:
    """What to do about a server that ended for a cause of `cause_in_log`."""
    return {
        "port-taken": "free its port, and its bus port, and start it again",
        "disk-full": "free some space, and start it again",
        "read-only": "make its folder writable, and start it again",
        "permission": "let its user write its folder, and start it again",
        "nodes-conf-unsaved": "make its folder writable and free some space, and start it again",
        "nodes-conf": "remove its nodes.conf: it comes back as a new node, and is to be forgotten as the old one",
    }.get(cause, "see its log, and start it again")


def silence(evidence: Evidence) -> Iterator[Finding]:
    """Servers that run, and do not answer as nodes of a cluster."""
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
    "tls": (
        "tls-one-side",
        "does not speak TLS, and is asked in it",
        "give all nodes the same: `tls-port`, `tls-cluster yes`, `tls-replication yes`",
        "tls-port",
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
    if view.code == "certificate":
        return _certificate(name, view)
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


_CERTIFICATE: tuple[tuple[str, str, str, str], ...] = (
    # What OpenSSL says -> the cause, in words, what to do.
    (
        "expired",
        "certificate-expired",
        "its certificate has expired",
        "make another one: the same `valkey-bootstrap create` does, for others `CONFIG SET tls-cert-file FILE`",
    ),
    (
        "mismatch",
        "certificate-name",
        "its certificate is for other names and addresses",
        "make it for this one, too (subjectAltName)",
    ),
    (
        "",
        "certificate-authority",
        "its certificate is signed by somebody who is not trusted",
        "give all nodes certificates of one authority, and name that with --tls-ca",
    ),
)


def _certificate(name: str, view: Silent) -> Finding:
    _, cause, words, mend = next(each for each in _CERTIFICATE if each[0] in view.reason.lower())
    return Finding(name, cause, words, mend, "tls-cert-file", evidence=(view.reason,))


def _login(name: str, view: Silent, accepted: list[str]) -> Finding:
    if not accepted:
        # Told once, with what each of them says: it is not the nodes' fault.
        mend = "give the password with --password-file or VALKEY_BOOTSTRAP_PASSWORD, and its user with --user"
        words = "no node takes the login"
        return Finding("", "login-refused", words, mend, evidence=(f"{name} {view.reason}",))
    missing = "required" in view.reason
    words = "asks for a password, and other nodes do not" if missing else "has another password than the other nodes"
    mend = "give all nodes the same: `CONFIG SET requirepass ...` and `CONFIG SET primaryauth ...`"
    return Finding(name, "password-differs", words, mend, "requirepass", evidence=(view.reason,))


_LOG_CAUSES: tuple[tuple[str, str, str], ...] = (
    # What the servers write before they die, the stable name of the cause, and what it means.
    ("Address already in use", "port-taken", "its port is in use"),
    ("can't update cluster config file", "nodes-conf-unsaved", "it could not save its nodes.conf"),
    ("Failed finding TLS support", "no-tls", "it was built without TLS"),
    (">>> 'tls-port", "no-tls", "it was built without TLS"),
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
