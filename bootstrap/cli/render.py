"""What verbs print on stdout: plans, statuses and lists, as text, JSON or environment lines."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bootstrap.cli.style import Style, columns
from bootstrap.events import WRITABLE_SECONDS
from bootstrap.planning.addressing import HOST_GATEWAY, Address, NodeAddresses
from bootstrap.planning.plan import CA_FILE, DATA_FOLDER, Creation, Plan
from bootstrap.planning.slots import SlotRange, format_ranges, key_slot, merge
from bootstrap.planning.spec import DEFAULT_USER
from bootstrap.planning.text import plural

if TYPE_CHECKING:
    from bootstrap.events import Timeline
    from bootstrap.operations.deployment import Deployment
    from bootstrap.operations.status import NodeStatus, Status
    from bootstrap.runtimes.base import Record


class Addressed(Protocol):
    """A node, planned or running."""

    @property
    def addresses(self) -> NodeAddresses:
        """Where it is reached."""


PASSWORD_VARIABLE = "VALKEY_BOOTSTRAP_PASSWORD"  # noqa: S105 -- a variable's name
HEADINGS = ("NODE", "ROLE", "ADDRESS", "ANNOUNCED", "SLOTS / PRIMARY", "ZONE")


def as_json(document: Any) -> str:
    """One JSON document."""
    return json.dumps(document, indent=2)


def plan_text(plan: Plan, style: Style, commands: Sequence[str] = ()) -> Iterable[str]:
    """A plan for people: what would be created, how the counts come about, where replicas sit, what was assumed."""
    runtime = f"{plan.runtime}, {what_runs(plan)}" if plan.runtime != "none" else str(plan.server)
    yield f"{_title(plan)}: {plan.arithmetic}   {runtime}"
    yield ""
    plus = style.paint("+", fg="green")
    yield from (f"  {plus} {line}" for line in _creation_lines(plan))
    rows: list[Sequence[str]] = [("NODE", "ROLE", "ADDRESS", "ANNOUNCED", "BUS", "SLOTS / PRIMARY", "ZONE")]
    rows += [
        (
            node.name,
            node.role,
            str(node.addresses.host),
            _announced(node),
            str(node.addresses.bus_port),
            _serves(node.slots, node.primary),
            node.zone,
        )
        for node in plan.nodes
    ]
    heading, *lines = columns(_without_repeated_names(rows))
    yield f"    {heading}"
    yield from (f"  {plus if plan.creations else ' '} {line}" for line in lines)
    yield ""
    told = (
        ("placement", plan.placement),
        ("published", _published(plan)),
        ("login", [f"clients and nodes log in as {plan.spec.user}"] if plan.spec.user else []),
        ("note", plan.notes),
        ("assumed", plan.assumptions),
    )
    for label, texts in told:
        yield from (f"{label}: {text}" for text in texts)
    yield from (f"{style.paint('warning:', fg='yellow')} {text}" for text in plan.warnings)
    if commands:
        yield from ("", "commands, in order:", *(f"  {command}" for command in commands))
    yield ""
    count = f"{len(plan.creations)} to create" if plan.creations else f"{plural(len(plan.nodes), 'server')} to form"
    yield f"Plan: {count}. Nothing was changed."


def timeline_lines(timeline: Timeline, seconds: float) -> list[str]:
    """Where the time went: a line for each phase, what it waited for last, and the floor."""
    rows = [(phase.started, f"{phase.seconds:.2f}s", phase.title, phase.waited_for) for phase in timeline.phases]
    if timeline.floor is not None:
        why = "a primary that was just started is not writable sooner"
        rows.append((timeline.floor, "", f"Floor: {WRITABLE_SECONDS:.1f} s after the last primary's start", why))
    rows.append((seconds, "", "Ready", ""))
    lines = [(f"{at:6.2f}s", took, what, reason) for at, took, what, reason in sorted(rows, key=lambda row: row[0])]
    return columns([("     at", "took", "what", "waited for"), *lines])


def what_runs(plan: Plan) -> str:
    """The image, where there is one, and the server."""
    return f"{plan.server.path} ({plan.server})" if plan.network else str(plan.server)


def _creation_lines(plan: Plan) -> Iterable[str]:
    """What is created beside the nodes, which have a table; many of a kind share a line."""
    names = {node.name for node in plan.nodes}
    alike: dict[str, list[Creation]] = {}
    for creation in plan.creations:
        if creation.name not in names or creation.kind == "folder":
            alike.setdefault(creation.kind, []).append(creation)
    for kind, found in alike.items():
        if len(found) == 1:
            yield f"{kind} {found[0].name}: {found[0].detail}"
        else:
            yield f"{len(found)} {kind}s {found[0].name} to {found[-1].name}"


def _published(plan: Plan) -> Iterable[str]:
    """Which ports of the engine's machine lead to the servers."""
    bus_ports = {node.addresses.bus_port for node in plan.nodes}
    ports: dict[str, set[str]] = {}
    for node in plan.nodes:
        for each in node.container.published if node.container else ():
            ports.setdefault(each.host, set()).add("bus" if each.port in bus_ports else "data")
    for host, kinds in ports.items():
        where = "the address that containers call host-gateway" if host == HOST_GATEWAY else host
        yield f"{' and '.join(sorted(kinds, reverse=True))} ports on {where}"
    if plan.network and not ports:
        yield "no port of this machine"


def _title(plan: Plan) -> str:
    return f'Cluster "{plan.name}"' if plan.runtime != "none" else "Cluster of the given servers"


def status_rows(status: Status) -> list[str]:
    """The table of a healthy cluster."""
    return columns(_without_repeated_names([HEADINGS, *map(_row, status.nodes)]))


def _row(node: NodeStatus) -> tuple[str, ...]:
    address = str(node.addresses.host)
    return node.name, node.role or "?", address, _announced(node), _serves(node.slots, node.primary), node.zone


def _announced(node: Addressed) -> str:
    """Where the node sends clients, if that is another address than theirs."""
    where = node.addresses.announced
    return str(where) if where and where != node.addresses.host else ""


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
        rows.append((*_row(node), node.id[:8], f"{mark} {node.health}"))
    yield from columns(_without_repeated_names(rows))
    if general := [doubt for doubt in status.agreement.doubts if not doubt.node]:
        yield ""
        yield from (f"{style.bullet} {doubt.text}" for doubt in general)


def _without_repeated_names(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Nodes named by their address need no column of its own for it."""
    same = all(row[0] == row[2] for row in rows[1:])
    return [[*row[:2], "" if same else row[2], *row[3:]] for row in rows]


@dataclass(frozen=True, slots=True)
class _Login:
    """How clients are told to log in, in lines to copy: the password is read from where it is, and never in them.

    Args:
        user: whom they log in as, None for no login.
        password_file: its first line is the password; "" where it is that of the environment.
        tls: connections are encrypted.
        ca_file: the certificates to trust, "" for the system's.
        shown: the certificate to show and its key, where servers ask for one.
    """

    user: str | None
    password_file: str
    tls: bool = False
    ca_file: str = ""
    shown: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, deployment: Deployment) -> _Login:
        """That of a cluster."""
        encryption = deployment.access.credentials.encryption
        shown = (encryption.certificate, encryption.key) if encryption else ("", "")
        return cls(deployment.user, deployment.password_file, deployment.tls, deployment.ca_file, shown)

    @property
    def shell(self) -> str:
        """What stands before a command; ``valkey-cli`` reads the variable."""
        if not self.user:
            return ""
        kept = f"$(head -n 1 {shlex.quote(self.password_file)})" if self.password_file else f"${PASSWORD_VARIABLE}"
        return f'REDISCLI_AUTH="{kept}" '

    @property
    def named(self) -> str:
        """The user, where there is one with a name."""
        return self.user if self.user and self.user != DEFAULT_USER else ""

    def flags(self, ca_file: str = "") -> str:
        """Flags of ``valkey-cli``.

        Args:
            ca_file: where it finds the authority's certificate, if not where it is kept.
        """
        certificate, key = self.shown
        files = {"--cacert": (ca_file or self.ca_file) if self.ca_file else "", "--cert": certificate, "--key": key}
        given = [f"{flag} {shlex.quote(file)} " for flag, file in files.items() if file]
        user = f"--user {shlex.quote(self.named)} " if self.named else ""
        return user + ("".join(["--tls ", *given]) if self.tls else "")

    @property
    def python(self) -> str:
        """Arguments of a cluster client."""
        found = [f', username="{self.named}"'] if self.named else []
        if self.user:
            kept = f"open({self.password_file!r}).readline().rstrip('\\n')"
            found.append(f", password={kept if self.password_file else f'os.environ[{PASSWORD_VARIABLE!r}]'}")
        if self.tls:
            certificate, key = self.shown
            files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": certificate, "ssl_keyfile": key}
            found += [", ssl=True", *(f", {name}={file!r}" for name, file in files.items() if file)]
        return "".join(found)


def created_text(status: Status, plan: Plan, deployment: Deployment, *, program: str, where: str) -> Iterable[str]:
    """The table of a cluster that is ready, and lines to copy that work as they are printed.

    Args:
        status: the cluster.
        plan: what it was made from.
        deployment: the same, with the login.
        program: how this program is called.
        where: flags that say where the cluster is kept, if it is not found without.
    """
    yield from status_rows(status)
    yield ""
    first = status.nodes[0].addresses.host
    replica = _replica_with("key", status)
    login = _Login.of(deployment)
    cli = f"{plan.server.cli} {login.flags()}"
    lines = [
        ("python", f'redis.cluster.RedisCluster(host="{first.host}", port={first.port}{login.python})'),
        ("shell", f"{login.shell}{cli}-c -h {first.host} -p {first.port}"),
        *_container_lines(plan, login),
    ]
    if replica:
        there = f"-h {replica.host} -p {replica.port}"
        lines.append(("replica", f"(echo READONLY; echo GET key) | {login.shell}{cli}{there}"))
    if login.password_file and status.runtime != "none":
        lines.append(("password", f"cat {shlex.quote(login.password_file)}"))
    if status.runtime != "none":
        lines += [
            ("status", f"{program} status --name {status.name}{where}"),
            ("delete", f"{program} delete --name {status.name}{where}"),
        ]
    yield from columns([("", ""), *lines])[1:]


def _container_lines(plan: Plan, login: _Login) -> Iterable[tuple[str, str]]:
    """A client in the first node's container, and one in a container of its own."""
    if plan.network is None or plan.announcement is None:
        return
    node, cli = plan.nodes[0], f"{plan.server.cli} {login.flags(f'{DATA_FOLDER}/{CA_FILE}')}"
    port = node.addresses.control.port
    inside = node.addresses.network
    # A client beside the servers cannot follow redirections that are meant for clients of this machine.
    follow = "-c " if inside else ""
    variable = "-e REDISCLI_AUTH " if login.user else ""
    yield "exec", f"{login.shell}docker exec {variable}-it {node.name} {cli}{follow}-p {port}"
    if inside is None:
        return
    options = f"--network {plan.network.name} " if plan.announcement.strategy != "gateway" else ""
    options += "".join(f"--add-host {name}:{address} " for name, address in plan.announcement.mapping)
    # It asks for the password: a variable of a container is shown to everybody who may inspect it.
    ask = "--askpass " if login.user else ""
    if login.ca_file:
        options += f"-v {shlex.quote(login.ca_file)}:/{CA_FILE}:ro "
    there = f"{plan.server.cli} {login.flags(f'/{CA_FILE}')}{ask}-c -h {inside.host} -p {inside.port}"
    yield "network", f"docker run --rm -it {options}{plan.server.path} {there}"


def _replica_with(key: str, status: Status) -> Address | None:
    """A replica that serves reads of a key; the others would only name its primary (MOVED)."""
    slot = key_slot(key)
    owner = next((n.name for n in status.nodes if any(first <= slot <= last for first, last in n.slots)), None)
    return next((n.addresses.host for n in status.nodes if owner and n.primary == owner), None)


def environment(name: str, nodes: Sequence[Addressed], deployment: Deployment | None = None) -> dict[str, str]:
    """The variables that lead clients to a cluster, empty where there is nothing to say.

    A password is named by its file, and never among them.

    Args:
        name: the cluster's.
        nodes: planned or running.
        deployment: the same, with the login; None of a plan.
    """
    first = nodes[0].addresses.host
    tls = deployment is not None and deployment.tls
    return {
        "VALKEY_CLUSTER_NAME": name,
        "VALKEY_CLUSTER_NODES": hosts_line(nodes),
        "VALKEY_HOST": first.host,
        "VALKEY_PORT": str(first.port),
        "VALKEY_URL": f"{'rediss' if tls else 'redis'}://{first}",
        "VALKEY_USERNAME": (deployment and deployment.user) or "",
        "VALKEY_PASSWORD_FILE": deployment.password_file if deployment else "",
        "VALKEY_CA_FILE": deployment.ca_file if deployment else "",
    }


def environment_text(variables: Mapping[str, str]) -> Iterable[str]:
    """``KEY=value`` lines for ``eval`` and ``$GITHUB_ENV``, which takes quotes literally: paths alone have them."""
    for name, value in variables.items():
        if value:
            yield f"{name}={shlex.quote(value) if name.endswith('_FILE') else value}"


def hosts_line(nodes: Sequence[Addressed]) -> str:
    """``host:port,host:port``."""
    return ",".join(str(node.addresses.host) for node in nodes)


def records_text(records: Sequence[Record]) -> list[str]:
    """A list of clusters."""
    rows: list[Sequence[str]] = [("NAME", "RUNTIME", "NODES", "RUNNING", "PORTS", "SERVER", "CREATED")]
    for record in records:
        ports = format_ranges(merge(node.addresses.control.port for node in record.nodes))
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
        "announce": record.announcement.strategy if record.announcement else None,
        "network": record.network.name if record.network else None,
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
