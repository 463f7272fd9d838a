"""What verbs print on stdout: plans, statuses and lists, as text, JSON or environment lines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bootstrap.cli.style import Style, columns
from bootstrap.planning.addressing import Address, NodeAddresses
from bootstrap.planning.plan import Plan
from bootstrap.planning.slots import SlotRange, format_ranges, key_slot
from bootstrap.planning.text import plural

if TYPE_CHECKING:
    from bootstrap.operations.status import Status
    from bootstrap.runtimes.base import Record


class Addressed(Protocol):
    """A node, planned or running."""

    @property
    def addresses(self) -> NodeAddresses:
        """Where it is reached."""


HEADINGS = ("NODE", "ROLE", "ADDRESS", "SLOTS / PRIMARY", "ZONE")


def as_json(document: Any) -> str:
    """One JSON document."""
    return json.dumps(document, indent=2)


def plan_text(plan: Plan, style: Style, commands: Sequence[str] = ()) -> Iterable[str]:
    """A plan for people: what would be created, how the counts come about, where replicas sit, what was assumed."""
    runtime = f"{plan.runtime}, {plan.server}" if plan.runtime != "none" else str(plan.server)
    yield f"{_title(plan)}: {plan.arithmetic}   {runtime}"
    yield ""
    plus = style.paint("+", fg="green")
    for creation in plan.creations:
        if creation.kind != "server":
            yield f"  {plus} {creation.kind} {creation.name}: {creation.detail}"
    rows: list[Sequence[str]] = [("NODE", "ROLE", "ADDRESS", "BUS", "SLOTS / PRIMARY", "ZONE")]
    for node in plan.nodes:
        where = node.addresses
        rows.append(
            (
                node.name,
                node.role,
                str(where.host),
                str(where.bus_port),
                _serves(node.slots, node.primary),
                node.zone,
            )
        )
    heading, *lines = columns(_without_repeated_names(rows))
    yield f"    {heading}"
    yield from (f"  {plus if plan.creations else ' '} {line}" for line in lines)
    yield ""
    for label, texts in (("placement", plan.placement), ("note", plan.notes), ("assumed", plan.assumptions)):
        yield from (f"{label}: {text}" for text in texts)
    yield from (f"{style.paint('warning:', fg='yellow')} {text}" for text in plan.warnings)
    if commands:
        yield from ("", "commands, in order:", *(f"  {command}" for command in commands))
    yield ""
    count = f"{len(plan.creations)} to create" if plan.creations else f"{plural(len(plan.nodes), 'server')} to form"
    yield f"Plan: {count}. Nothing was changed."


def _title(plan: Plan) -> str:
    return f'Cluster "{plan.name}"' if plan.runtime != "none" else "Cluster of the given servers"


def status_rows(status: Status) -> list[str]:
    """The table of a healthy cluster."""
    rows = [HEADINGS]
    for node in status.nodes:
        address = str(node.addresses.host)
        rows.append((node.name, node.role or "?", address, _serves(node.slots, node.primary), node.zone))
    return columns(_without_repeated_names(rows))


def status_text(status: Status, style: Style) -> Iterable[str]:
    """A status for people: every node, its id and health, then every doubt."""
    health = style.paint("healthy", fg="green") if status.healthy else style.paint("not healthy", fg="red")
    answering = sum(
        1
        for node in status.nodes
        if not any(d.node == node.name and d.kind == "silent" for d in status.agreement.doubts)
    )
    yield f'Cluster "{status.name}" is {health}: {answering} of {plural(len(status.nodes), "node")} answered'
    yield ""
    rows: list[Sequence[str]] = [(*HEADINGS, "ID", "HEALTH")]
    for node in status.nodes:
        mark = style.done if node.health == "ok" else style.failed
        rows.append(
            (
                node.name,
                node.role or "?",
                str(node.addresses.host),
                _serves(node.slots, node.primary),
                node.zone,
                node.id[:8],
                f"{mark} {node.health}",
            )
        )
    yield from columns(_without_repeated_names(rows))
    if general := [doubt for doubt in status.agreement.doubts if not doubt.node]:
        yield ""
        yield from (f"{style.bullet} {doubt.text}" for doubt in general)


def _without_repeated_names(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Nodes named by their address need no column of its own for it."""
    same = all(row[0] == row[2] for row in rows[1:])
    return [[*row[:2], "" if same else row[2], *row[3:]] for row in rows]


def created_text(status: Status, *, program: str, state_root: str | None) -> Iterable[str]:
    """The table of a cluster that is ready, and lines to copy that work as they are printed."""
    yield from status_rows(status)
    yield ""
    first = status.nodes[0].addresses.host
    replica = _replica_with("key", status)
    lines = [
        ("python", f'redis.cluster.RedisCluster(host="{first.host}", port={first.port})'),
        ("shell", f"valkey-cli -c -h {first.host} -p {first.port}"),
    ]
    if replica:
        lines.append(("replica", f"(echo READONLY; echo GET key) | valkey-cli -h {replica.host} -p {replica.port}"))
    if status.runtime != "none":
        root = f" --state-root {shlex.quote(state_root)}" if state_root else ""
        lines += [
            ("status", f"{program} status --name {status.name}{root}"),
            ("delete", f"{program} delete --name {status.name}{root}"),
        ]
    yield from columns([("", ""), *lines])[1:]


def _replica_with(key: str, status: Status) -> Address | None:
    """A replica that serves reads of a key; the others would only name its primary (MOVED)."""
    slot = key_slot(key)
    owner = next((n.name for n in status.nodes if any(first <= slot <= last for first, last in n.slots)), None)
    return next((n.addresses.host for n in status.nodes if owner and n.primary == owner), None)


def environment_text(name: str, nodes: Sequence[Addressed]) -> Iterable[str]:
    """``KEY=value`` lines for ``eval`` and ``$GITHUB_ENV``; the values need no quoting in either."""
    first = nodes[0].addresses.host
    yield f"VALKEY_CLUSTER_NAME={name}"
    yield f"VALKEY_CLUSTER_NODES={hosts_line(nodes)}"
    yield f"VALKEY_HOST={first.host}"
    yield f"VALKEY_PORT={first.port}"
    yield f"VALKEY_URL=redis://{first}"


def hosts_line(nodes: Sequence[Addressed]) -> str:
    """``host:port,host:port``."""
    return ",".join(str(node.addresses.host) for node in nodes)


def records_text(records: Sequence[Record]) -> list[str]:
    """A list of clusters."""
    rows: list[Sequence[str]] = [("NAME", "RUNTIME", "NODES", "RUNNING", "PORTS", "SERVER", "CREATED")]
    for record in records:
        ports = f"{record.base_port}-{record.base_port + len(record.nodes) - 1}"
        rows.append(
            (
                record.name,
                record.runtime,
                str(len(record.nodes)),
                str(record.running),
                ports,
                record.server,
                record.created_at,
            )
        )
    return columns(rows)


def record_dict(record: Record) -> dict[str, Any]:
    """The JSON form of a record."""
    return {
        "name": record.name,
        "runtime": record.runtime,
        "server": record.server,
        "created_at": record.created_at,
        "folder": record.folder or None,
        "running": record.running,
        "orphan": record.orphan,
        "nodes": [
            {
                "name": node.name,
                "index": node.index,
                "host": node.host,
                "zone": node.zone or None,
                "addresses": node.addresses.as_dict(),
                "running": node.running,
            }
            for node in record.nodes
        ],
    }


def _serves(slots: Sequence[SlotRange], primary: str | None) -> str:
    return f"of {primary}" if primary else format_ranges(slots)
