"""Cluster servers in memory, for testing what is built on this package without starting any.

    servers = FakeServers()
    runtime = FakeRuntime(servers)
    made = await create(spec, Access(servers.connector), runtime=runtime)

`FakeServers` answers the commands that this package sends, in the shapes and with the errors of real servers;
`FakeRuntime` starts and stops them. The contract suite holds both to what real servers and processes do. What
real servers need seconds for happens at the next look, unless a test holds it back. Trouble is scripted:

===========================================  ===============================================================
``servers[name].paused = True``              it accepts connections and does not answer
``servers[name].refuse(command, error)``     it answers commands that begin so with an error
``servers[name].settings["requirepass"]``    the password that it asks for
``servers[name].functions.append(library)``  a function library on it
``servers[name].cluster_mode = False``       it is not in cluster mode
``servers[name].version = (6, 2, 0)``        another version
``servers.hold_gossip(looks=5)``             nobody hears of anybody until that many looks were answered
``servers.simulation``                       keys (`put`), `set_up`, `set_bus`, `lose`, `fail_over`
``runtime.taken_ports[6379] = "me"``         ports of somebody else, in the survey and afterwards
``runtime.taken_after_survey[6379]``         the same, but taken when the survey is over
``runtime.deaths[name] = log``               the server dies at its start, and this is what it logs
``runtime.leftovers.append("a folder")``     what the next removal cannot remove
===========================================  ===============================================================
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import anyio
import anyio.lowlevel

from bootstrap.errors import Conflict, NodeFailed, RuntimeUnavailable
from bootstrap.events import Reporter
from bootstrap.formation.base import (
    LOOK,
    Command,
    Connect,
    Credentials,
    NodeClient,
    RawCommand,
    Reply,
    ServerError,
    Unreachable,
    read_look,
    silence,
)
from bootstrap.formation.window import DEFAULTS
from bootstrap.judging.evidence import Contact, Server
from bootstrap.judging.simulation import Refused, Simulation
from bootstrap.judging.views import NodeView, Peer, View
from bootstrap.planning.addressing import Address
from bootstrap.planning.plan import CONFIG_FILE, Facts, Plan, PlannedNode
from bootstrap.planning.ports import taken_error
from bootstrap.planning.site import Host, ServerInfo, Site, Version
from bootstrap.planning.slots import count, format_ranges, key_slot
from bootstrap.planning.spec import BUS_OFFSET
from bootstrap.runtimes.base import Action, Ask, Record, Secrets, Vantage
from bootstrap.runtimes.records import dump_record, load_record, newcomers, reserved_ports

FAKE_SERVER = ServerInfo("valkey", (9, 1, 2), "fake-valkey-server", "fake")


@dataclass(slots=True)
class FakeServer:
    """One server's own traits; its part in the cluster is the simulation's.

    Args:
        name: its name.
        address: where clients reach it.
        flavor, version: what it says it is.
        settings: what CONFIG GET shows, and where CONFIG SET writes.
        cluster_mode: whether it is in cluster mode.
        functions: names of its function libraries.
        paused: it does not answer.
        refusals: prefix of a command -> the error, and how often it is still given (None: always).
    """

    name: str
    address: Address
    flavor: Literal["valkey", "redis"] = FAKE_SERVER.flavor
    version: Version = FAKE_SERVER.version
    settings: dict[str, str] = field(default_factory=dict)
    cluster_mode: bool = True
    functions: list[str] = field(default_factory=list)
    paused: bool = False
    refusals: dict[Command, tuple[str, int | None]] = field(default_factory=dict)

    def refuse(self, command: Command, error: str, *, times: int | None = None) -> None:
        """Answer commands that begin with these words with an error, always or so many times."""
        self.refusals[command] = (error, times)

    def refusal(self, command: Command) -> str | None:
        """The error that a command is answered with by order of the test, counted."""
        for prefix, (error, times) in self.refusals.items():
            if command[: len(prefix)] == prefix and times != 0:
                self.refusals[prefix] = (error, None if times is None else times - 1)
                return error
        return None

    def known_settings(self) -> dict[str, str]:
        """Every setting that it knows, with its value."""
        info = ServerInfo(self.flavor, self.version, "")
        return {
            "requirepass": "",
            **{key: text for key, text in DEFAULTS.items() if info.has(key)},
            **self.settings,
        }


class FakeServers:
    """Servers in memory, by name; `connect` reaches them.

    ``journal`` has every command that was sent: the server's name and the words.
    """

    def __init__(self, server: ServerInfo = FAKE_SERVER) -> None:
        self.server = server
        self.simulation = Simulation(server)
        self.journal: list[tuple[str, Command]] = []
        self._servers: dict[str, FakeServer] = {}
        self._looks_left = 0

    def __getitem__(self, name: str) -> FakeServer:
        return self._servers[name]

    def __iter__(self) -> Iterator[FakeServer]:
        return iter(self._servers.values())

    def add(
        self, name: str, address: Address, *, bus_port: int = 0, settings: Mapping[str, str] | None = None
    ) -> FakeServer:
        """Start a blank server."""
        self.simulation.add(name, address, bus_port or address.port + BUS_OFFSET)
        self._servers[name] = FakeServer(name, address, self.server.flavor, self.server.version, dict(settings or {}))
        return self._servers[name]

    def remove(self, name: str) -> None:
        """End a server and drop its data; one that is not there is none."""
        if self._servers.pop(name, None) is not None:
            self.simulation.remove(name)

    def running(self, name: str) -> bool:
        """Whether it runs; a paused one does."""
        return name in self._servers and self.simulation.nodes[name].up

    def hold_gossip(self, *, looks: int) -> None:
        """Let no server hear of another until this many looks have been answered, by whichever servers."""
        self._looks_left = looks
        self.simulation.held = looks > 0

    async def connect(self, address: Address) -> NodeClient:
        """Reach a server without a login; this is a `bootstrap.formation.base.Connect`."""
        return FakeClient(self, address, Credentials())

    def connector(self, credentials: Credentials) -> Connect:
        """How servers are reached with a login."""

        async def connect(address: Address) -> NodeClient:
            return FakeClient(self, address, credentials)

        return connect

    def reach(self, address: Address, credentials: Credentials) -> FakeServer:
        """The server at an address.

        Raises:
            Unreachable: as a `NodeClient` does.
        """
        found = next((each for each in self if each.address == address and self.running(each.name)), None)
        if found is None:
            raise Unreachable(f"{address} cannot be reached: connection refused")
        if found.paused:
            raise Unreachable(f"{address} does not answer in time", code="no-answer")
        if (password := found.settings.get("requirepass")) and password != credentials.password:
            raise Unreachable(f"{address} refuses the login: Authentication required.", code="login-failed")
        return found

    def answer(self, server: FakeServer, command: Command) -> Reply:
        """A server's reply to a command."""
        self.journal.append((server.name, command))
        if (error := server.refusal(command)) is not None:
            return ServerError(error)
        try:
            return _Asked(self.simulation, server).answer(command)
        except Refused as refused:
            return ServerError(refused.text)
        finally:
            if command == ("CLUSTER", "NODES") and self._looks_left:
                self.hold_gossip(looks=self._looks_left - 1)


class FakeClient:
    """A `NodeClient` for one address of `FakeServers`."""

    def __init__(self, servers: FakeServers, address: Address, credentials: Credentials) -> None:
        self.address = address
        self._servers = servers
        self._credentials = credentials

    async def run(self, *commands: Command) -> Sequence[Reply]:
        """See `NodeClient.run`."""
        await anyio.lowlevel.checkpoint()
        server = self._servers.reach(self.address, self._credentials)
        return [self._servers.answer(server, command) for command in commands]

    async def run_raw(self, *commands: RawCommand, within: float | None = None) -> Sequence[Reply]:  # noqa: ARG002 - no time passes
        """See `NodeClient.run_raw`."""
        told = [tuple(_text(word) for word in command) for command in commands]
        return [_raw(reply) for reply in await self.run(*told)]

    async def look(self) -> View:
        """See `NodeClient.look`."""
        try:
            return read_look(await self.run(*LOOK))
        except Unreachable as error:
            return silence(error)

    async def aclose(self) -> None:
        """See `NodeClient.aclose`."""


def _text(word: str | bytes) -> str:
    return word if isinstance(word, str) else word.decode(errors="surrogateescape")


def _raw(reply: Reply) -> Reply:
    if isinstance(reply, str):
        return reply.encode(errors="surrogateescape")
    return [_raw(each) for each in reply] if isinstance(reply, list) else reply


class _Asked:
    """A server that is asked one command."""

    def __init__(self, simulation: Simulation, server: FakeServer) -> None:
        self.simulation = simulation
        self.server = server
        self.name = server.name

    def answer(self, command: Command) -> Reply:
        word, *args = command
        match word, args:
            case ("PING", []) | ("CLIENT", ["UNPAUSE"]) | ("SCRIPT", ["FLUSH", *_]) | ("SELECT", ["0"]):
                return "PONG" if word == "PING" else "OK"
            case "INFO", [section]:
                return self._info(section)
            case "FUNCTION", ["LIST" | "FLUSH" as what, *_]:
                return self._functions(what)
            case "CONFIG", ["GET" | "SET", key, *value]:
                return self._configure(key, value[0]) if value else self._configured(key)
            case (("SET" | "GET" | "DEL"), [key, *rest]):
                return self._keyed(word, key, *rest)
            case (("CLUSTER" | "WAIT" | "FLUSHALL" | "FLUSHDB"), _):
                return self._change_or_tell(word, args)
            case _:
                raise Refused(f"unknown command '{word}', with args beginning with: {' '.join(map(repr, args))} ")

    def _change_or_tell(self, word: str, args: Sequence[str]) -> Reply:
        if word == "CLUSTER":
            return self._cluster(*args)
        return self.simulation.wait(self.name) if word == "WAIT" else self._flush()

    def _functions(self, what: str) -> Reply:
        if what == "LIST":
            return [["library_name", each, "engine", "LUA", "functions", []] for each in self.server.functions]
        self.server.functions.clear()
        self.simulation.write(self.name)
        return "OK"

    def _flush(self) -> Reply:
        if self._view().myself.role == "replica":
            raise Refused("READONLY You can't write against a read only replica.")
        self.simulation.flush(self.name)
        return "OK"

    def _view(self) -> NodeView:
        view = self.simulation.view(self.name)
        assert isinstance(view, NodeView), self.name
        return view

    def _configured(self, key: str) -> Reply:
        value = self.server.known_settings().get(key)
        return [] if value is None else [key, value]

    def _configure(self, key: str, value: str) -> Reply:
        if key not in self.server.known_settings():
            raise Refused(f"Unknown option or number of arguments for CONFIG SET - '{key}'")
        if DEFAULTS.get(key, "").isdigit() and not value.isdigit():
            problem = "argument couldn't be parsed into an integer"
            raise Refused(f"CONFIG SET failed (possibly related to argument '{key}') - {problem}")
        self.server.settings[key] = value
        return "OK"

    def _keyed(self, word: str, key: str, *rest: str) -> Reply:
        if self.server.cluster_mode:
            self._refuse_elsewhere(key)
        if word == "GET":
            return self.simulation.nodes[self.name].data.get("db0", {}).get(key)
        if word == "DEL":
            return int(self.simulation.discard(self.name, key))
        self.simulation.put(self.name, key, rest[0])
        return "OK"

    def _refuse_elsewhere(self, key: str) -> None:
        slot, view = key_slot(key.encode(errors="surrogateescape")), self._view()
        owner = next((p for p in view.peers.values() if any(a <= slot <= b for a, b in p.slots)), None)
        if owner is None:
            raise Refused("CLUSTERDOWN Hash slot not served")
        if view.state != "ok":
            raise Refused("CLUSTERDOWN The cluster is down")
        if owner.id != view.id:
            raise Refused(f"MOVED {slot} {owner.address}")

    def _cluster(self, sub: str, *args: str) -> Reply:
        if not self.server.cluster_mode:
            raise Refused("This instance has cluster support disabled")
        match sub, args:
            case "INFO", []:
                return _cluster_info(self._view())
            case "NODES", []:
                return "".join(f"{_node_line(peer)}\n" for peer in self._view().peers.values())
            case "SLOTS", []:
                return _cluster_slots(self._view())
            case "MYID", []:
                return self._view().id
            case _:
                self._change(sub, args)
                return "OK"

    def _change(self, sub: str, args: Sequence[str]) -> None:
        match sub, args:
            case "SET-CONFIG-EPOCH", [epoch]:
                self.simulation.set_epoch(self.name, _integer(epoch, "value is not an integer or out of range"))
            case "ADDSLOTSRANGE", [_, *_] if len(args) % 2 == 0:
                bounds = [_integer(text, "Invalid or out of range slot") for text in args]
                self.simulation.add_slots(self.name, list(zip(bounds[::2], bounds[1::2], strict=True)))
            case "MEET", [host, port, *bus] if len(bus) < 2:
                where = Address(host, _integer(port, f"Invalid base port specified: {port}"))
                bus_port = _integer(bus[0], f"Invalid bus port specified: {bus[0]}") if bus else where.port + BUS_OFFSET
                self.simulation.meet(self.name, where, bus_port)
            case "REPLICATE", [node_id]:
                self.simulation.replicate(self.name, node_id)
            case "FORGET", [node_id]:
                self.simulation.forget(self.name, node_id)
            case "FAILOVER", []:
                self.simulation.take_over(self.name)
            case "RESET", ["HARD"]:
                self.simulation.reset(self.name)
            case (("SET-CONFIG-EPOCH" | "ADDSLOTSRANGE" | "MEET" | "REPLICATE" | "FORGET"), _):
                raise Refused(f"wrong number of arguments for 'cluster|{sub.lower()}' command")
            case _:
                raise Refused(f"unknown subcommand '{sub}'. Try CLUSTER HELP.")

    def _info(self, section: str) -> str:
        lines: Mapping[str, object]
        match section:
            case "server":
                lines = _server_info(self.server)
            case "replication":
                lines = _replication_info(self._view())
            case "keyspace":
                keys = self.simulation.nodes[self.name].keys.items()
                lines = {name: f"keys={number},expires=0,avg_ttl=0" for name, number in keys}
            case "cluster":
                lines = {"cluster_enabled": int(self.server.cluster_mode)}
            case _:
                lines = {}
        return f"# {section.capitalize()}\r\n" + _fields(lines)


def _integer(text: str, error: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Refused(error) from None


def _fields(values: Mapping[str, object]) -> str:
    return "".join(f"{key}:{value}\r\n" for key, value in values.items())


def _server_info(server: FakeServer) -> dict[str, object]:
    version = ".".join(map(str, server.version))
    if server.flavor == "redis":
        return {"redis_version": version, "redis_mode": "cluster" if server.cluster_mode else "standalone"}
    zone = server.settings.get("availability-zone", "")
    return {
        "redis_version": "7.2.4",
        "server_name": "valkey",
        "valkey_version": version,
        "availability_zone": zone,
    }


def _replication_info(view: NodeView) -> dict[str, object]:
    if view.myself.role == "primary":
        return {"role": "master", "master_repl_offset": view.offset}
    return {"role": "slave", "master_link_status": view.link, "slave_repl_offset": view.offset}


def _cluster_info(view: NodeView) -> str:
    peers = view.peers.values()
    return _fields({
        "cluster_state": view.state,
        "cluster_slots_assigned": sum(count(peer.slots) for peer in peers),
        "cluster_known_nodes": len(peers),
        "cluster_size": sum(bool(peer.slots) for peer in peers),
        "cluster_current_epoch": max(peer.epoch for peer in peers),
        "cluster_my_epoch": view.epoch,
    })  # fmt: skip


def _node_line(peer: Peer) -> str:
    flags = ",".join(sorted(peer.flags, key=_FLAGS.index))
    link = "connected" if peer.connected else "disconnected"
    slots = format_ranges(peer.slots).replace(",", " ")
    where = f"{peer.address.host}:{peer.address.port}@{peer.bus_port}"
    return f"{peer.id} {where} {flags} {peer.primary or '-'} 0 0 {peer.epoch} {link} {slots}".rstrip()


_FLAGS = ("myself", "master", "slave", "fail?", "fail", "handshake", "noaddr")


def _cluster_slots(view: NodeView) -> list[Reply]:
    def entry(peer: Peer) -> list[Reply]:
        return [view.listed[peer.id].host, view.listed[peer.id].port, peer.id, []]

    replies: list[Reply] = []
    for primary in view.peers.values():
        followers = [p for p in view.peers.values() if p.primary == primary.id and p.id in view.listed]
        replies += [[first, last, entry(primary), *map(entry, followers)] for first, last in primary.slots]
    return sorted(replies, key=lambda reply: int(reply[0]))


@dataclass(slots=True)
class _Log:
    """A node's log, and who waits for more of it."""

    text: str = ""
    closed: bool = False
    waiting: list[anyio.Event] = field(default_factory=list)

    def write(self, line: str) -> None:
        self.text += line
        self._wake()

    def close(self) -> None:
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        while self.waiting:
            self.waiting.pop().set()


@dataclass(slots=True)
class _Kept:
    """What the runtime keeps of a cluster: its record as text, the logs by node, and secret files."""

    record: str
    logs: dict[str, _Log]
    secrets: dict[str, bytes] = field(default_factory=dict)


class FakeRuntime:
    """A `bootstrap.runtimes.base.Runtime` whose servers are `FakeServers`.

    Args:
        servers: the servers that it starts; others may be among them.
        hosts: the failure domains that it declares.
        seed: see `Site`.
    """

    kind = "fake"

    def __init__(
        self,
        servers: FakeServers | None = None,
        *,
        hosts: Sequence[Host] = (Host("localhost"),),
        seed: int = 0,
    ) -> None:
        self.servers = servers or FakeServers()
        self.hosts = tuple(hosts)
        self.seed = seed
        self.taken_ports: dict[int, str] = {}
        self.taken_after_survey: dict[int, str] = {}
        self.deaths: dict[str, str] = {}
        self.leftovers: list[str] = []
        self._kept: dict[str, _Kept] = {}
        self._claimed: set[str] = set()

    async def fetch(self, record: Record | None, reporter: Reporter) -> None:
        """See `Runtime.fetch`: nothing is missing."""

    async def survey(
        self,
        record: Record | None = None,  # noqa: ARG002 - there is one server only
        *,
        names: Collection[str] = (),  # noqa: ARG002 - nor are there names
    ) -> Site:
        """See `Runtime.survey`."""
        await anyio.lowlevel.checkpoint()
        site = Site(
            runtime=self.kind,
            hosts=self.hosts,
            server=self.servers.server,
            taken_ports=self._taken(),
            reserved_ports=self._reserved(),
            seed=self.seed,
        )
        self.taken_ports |= self.taken_after_survey
        self.taken_after_survey.clear()
        return site

    async def inventory(self, name: str | None = None) -> Sequence[Record]:
        """See `Runtime.inventory`."""
        await anyio.lowlevel.checkpoint()
        return tuple(self._record(each) for each in sorted(self._kept) if name in (None, each))

    def claim(self, name: str) -> AbstractAsyncContextManager[None]:
        """See `Runtime.claim`."""
        return self._claim(name)

    async def prepare(self, plan: Plan) -> Facts:
        """See `Runtime.prepare`."""
        await anyio.lowlevel.checkpoint()
        if plan.name not in self._kept:
            strict = isinstance(plan.spec.base_port, int)
            self._refuse_taken(plan.nodes, {} if strict else self._reserved())
            record = dump_record(plan, created_at="2000-01-01T00:00:00+00:00", owner={})
            self._kept[plan.name] = _Kept(record, {})
        return Facts({"folder": f"/fake/{plan.name}"})

    async def amend(self, plan: Plan) -> None:
        """See `Runtime.amend`."""
        await anyio.lowlevel.checkpoint()
        if plan.name not in self._kept:
            raise RuntimeUnavailable(f'"{plan.name}" was not prepared', code="not-prepared")
        existing = self._record(plan.name)
        others = [self._record(name) for name in self._kept if name != plan.name]
        self._refuse_taken(newcomers(plan, existing), reserved_ports(others))
        record = dump_record(plan, created_at=existing.created_at, owner=dict(existing.owner))
        self._kept[plan.name].record = record

    def _refuse_taken(self, nodes: Sequence[PlannedNode], reserved: Mapping[int, str]) -> None:
        ports = [port for node in nodes for port in (node.addresses.control.port, node.addresses.bus_port)]
        avoided = {**reserved, **self._taken()}
        if taken := {port: avoided[port] for port in ports if port in avoided}:
            raise taken_error(taken)

    async def start(self, name: str, node: PlannedNode, files: Mapping[str, bytes]) -> None:
        """See `Runtime.start`."""
        await anyio.lowlevel.checkpoint()
        if name not in self._kept:
            raise RuntimeUnavailable(f'"{name}" was not prepared', code="not-prepared")
        if self.servers.running(node.name):
            return
        log = self._kept[name].logs.setdefault(node.name, _Log())
        where = node.addresses.control
        if death := self.deaths.get(node.name):
            log.write(death)
        elif where.port in self.taken_ports:
            log.write(f"# Could not create server TCP listening socket {where}: bind: Address already in use\n")
        else:
            self._run(node, _read_config(files[CONFIG_FILE]))
            log.write(f"* {node.name} is ready to accept connections at {where}\n")

    async def put(self, name: str, node: str, files: Mapping[str, bytes]) -> None:
        """See `Runtime.put`: these servers read no files."""
        del files
        await anyio.lowlevel.checkpoint()
        if name not in self._kept or node not in self._kept[name].logs:
            raise NodeFailed(f"{node} does not run", code="not-running")

    async def keep(self, name: str, files: Mapping[str, bytes]) -> None:
        """See `Runtime.keep`."""
        await anyio.lowlevel.checkpoint()
        self._kept[name].secrets.update(files)

    async def kept(self, name: str) -> Secrets:
        """See `Runtime.kept`."""
        await anyio.lowlevel.checkpoint()
        return Secrets("", dict(self._kept[name].secrets)) if name in self._kept else Secrets()

    async def control(self, name: str, node: str, action: Action) -> None:
        """See `Runtime.control`."""
        await anyio.lowlevel.checkpoint()
        kept = self._kept.get(name)
        if kept is None or node not in kept.logs or not self.servers.running(node):
            raise NodeFailed(f"{node} does not run", code="not-running")
        if action in ("pause", "resume"):
            self.servers[node].paused = action == "pause"
            return
        self.servers.simulation.set_up(node, up=False)
        kept.logs[node].write(f"* {node} ended\n" if action == "stop" else "")

    async def logs(self, name: str, node: str, *, tail: int | None = None) -> str:
        """See `Runtime.logs`."""
        await anyio.lowlevel.checkpoint()
        kept = self._kept.get(name)
        text = kept.logs[node].text if kept is not None and node in kept.logs else ""
        return text if tail is None else "".join(text.splitlines(keepends=True)[-tail:] if tail else [])

    async def follow(self, name: str, node: str, *, tail: int | None = 0) -> AsyncIterator[str]:
        """See `Runtime.follow`."""
        await anyio.lowlevel.checkpoint()
        kept = self._kept.get(name)
        known = kept is not None and any(node == each.name for each in self._record(name).nodes)
        log = kept.logs.setdefault(node, _Log()) if kept is not None and known else _Log(closed=True)
        lines = log.text.splitlines(keepends=True)
        told = 0 if tail is None else len("".join(lines[: max(0, len(lines) - tail)]))
        while not log.closed:
            if told < len(log.text):
                text, told = log.text[told:], len(log.text)
                yield text
            else:
                log.waiting.append(more := anyio.Event())
                await more.wait()

    async def remove(self, name: str, nodes: Collection[str] | None = None) -> Sequence[str]:
        """See `Runtime.remove`."""
        await anyio.lowlevel.checkpoint()
        kept = self._kept.get(name)
        if kept is None:
            return ()
        for node in list(kept.logs) if nodes is None else nodes:
            if (log := kept.logs.pop(node, None)) is not None:
                log.close()
                self.servers.remove(node)
        left, self.leftovers = tuple(self.leftovers), []
        if nodes is None and not left:
            del self._kept[name]
        return left

    async def inspect(self, name: str) -> Mapping[str, Server]:
        """See `Runtime.inspect`."""
        await anyio.lowlevel.checkpoint()
        kept = self._kept.get(name)
        return {} if kept is None else {node.name: self._server(node.name, kept) for node in self._record(name).nodes}

    def _server(self, node: str, kept: _Kept) -> Server:
        log = kept.logs[node].text if node in kept.logs else ""
        if not self.servers.running(node):
            return Server("stopped" if log else "missing", log=log)
        return Server("paused" if self.servers[node].paused else "running", log=log)

    def vantages(self, record: Record) -> Sequence[Vantage]:  # noqa: ARG002 - all see the same
        """See `Runtime.vantages`."""
        return (FakeVantage(self.servers),)

    def _run(self, node: PlannedNode, settings: Mapping[str, str]) -> None:
        if node.name in self.servers.simulation.nodes:
            self.servers.simulation.set_up(node.name, up=True)
            self.servers[node.name].settings = dict(settings)
            self.servers[node.name].paused = False
        else:
            where = node.addresses
            self.servers.add(node.name, where.control, bus_port=where.bus_port, settings=settings)

    def _record(self, name: str) -> Record:
        record = load_record(self._kept[name].record, runtime=self.kind, folder=f"/fake/{name}")
        logs = self._kept[name].logs
        nodes = tuple(replace(n, running=n.name in logs and self.servers.running(n.name)) for n in record.nodes)
        return replace(record, nodes=nodes)

    def _taken(self) -> dict[int, str]:
        running = [each for each in self.servers if self.servers.running(each.name)]
        data = {each.address.port: each.name for each in running}
        bus = {self.servers.simulation.nodes[each.name].bus_port: each.name for each in running}
        return {**data, **bus, **self.taken_ports}

    def _reserved(self) -> dict[int, str]:
        return reserved_ports([self._record(name) for name in self._kept])

    @asynccontextmanager
    async def _claim(self, name: str) -> AsyncIterator[None]:
        if name in self._claimed:
            raise Conflict(f'another command is at work on "{name}"', code="busy")
        self._claimed.add(name)
        try:
            yield
        finally:
            self._claimed.discard(name)


class FakeVantage:
    """A place from which `FakeServers` are dialled."""

    name = "the fake network"
    node = ""
    beside = True
    slow = False

    def __init__(self, servers: FakeServers) -> None:
        self._servers = servers

    async def dial(self, host: str, port: int, *, timeout: float, ask: Ask = None) -> Contact:  # noqa: ARG002 - no time passes
        """See `Vantage.dial`."""
        await anyio.lowlevel.checkpoint()
        for node in self._servers.simulation.nodes.values():
            if node.up and node.address == Address(host, port):
                return Contact("open", node.id if ask else "")
            if node.up and (node.address.host, node.bus_port) == (host, port):
                return Contact("open" if node.bus else "silent")
        return Contact("refused")


def _read_config(content: bytes) -> dict[str, str]:
    """The settings of a configuration file as `render_config` writes it."""
    pairs = [line.split(" ", 1) for line in content.decode().splitlines() if not line.startswith("#")]
    return {key: value[1:-1].replace('\\"', '"').replace("\\\\", "\\") for key, value in pairs}
