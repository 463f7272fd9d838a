"""The async API: free functions, and the handle of a running cluster.

Everything here is thin: constants, and one-line delegates to `bootstrap.operations`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import anyio

from bootstrap.concurrency import to_the_end
from bootstrap.errors import UsageError
from bootstrap.events import Observer, Reporter
from bootstrap.formation.base import Credentials, Encryption
from bootstrap.operations.choosing import only, refuse_unasked
from bootstrap.operations.create import Created, CreateOptions
from bootstrap.operations.deployment import Access, Deployment, Node, resolve_node
from bootstrap.operations.login import Login, open_deployment
from bootstrap.operations.protection import Certificates
from bootstrap.planning.addressing import Address, Audience
from bootstrap.planning.plan import Plan, build_plan
from bootstrap.planning.site import Site
from bootstrap.planning.slots import merge
from bootstrap.planning.spec import ClusterSpec, RuntimeKind, SpecFields
from bootstrap.planning.text import listing
from bootstrap.runtimes import Found, everywhere

if TYPE_CHECKING:
    from redis.asyncio.cluster import RedisCluster

    from bootstrap.exports.clients import Client
    from bootstrap.operations.call import Answer, Which
    from bootstrap.operations.doctor import Diagnosis
    from bootstrap.operations.requests import Request, Weights
    from bootstrap.operations.scaling import Scaled
    from bootstrap.operations.status import Status
    from bootstrap.runtimes.base import Record

TEARDOWN_SECONDS = 20.0


class Handle:
    """A cluster's constants, which the asynchronous and the blocking handle share."""

    def __init__(self, deployment: Deployment, plan: Plan | None = None) -> None:
        self._deployment = deployment
        self.plan: Plan | None = plan
        """What it was made from, where this process made or verified it; None when it was attached to."""

    @property
    def name(self) -> str:
        """Its name."""
        return self._deployment.name

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Its nodes by index: names, addresses, hosts and zones."""
        return self._deployment.nodes

    def node(self, ref: str | int) -> Node:
        """The node that a name, an index or host:port stands for; raises `UsageError` with the names that there are."""
        return resolve_node(ref, self.nodes)

    def endpoints(self, audience: Audience = "host") -> tuple[Address, ...]:
        """The addresses of all nodes, for clients on this machine or on the servers' network.

        Raises:
            UsageError: the nodes have no address for that audience.
        """
        found = [node.addresses.of(audience) for node in self.nodes]
        if None in found:
            raise UsageError(f'"{self.name}" has no addresses for clients on the {audience}', code="no-such-audience")
        return tuple(address for address in found if address is not None)

    def connection_kwargs(self, audience: Audience = "host") -> dict[str, Any]:
        """Keyword arguments for redis-py's and valkey-py's cluster clients: a first contact, and the login if any."""
        first = self.endpoints(audience)[0]
        login = self._deployment.access.credentials
        found: dict[str, Any] = {"host": first.host, "port": first.port, **self._trust()}
        return found | {k: v for k, v in (("username", login.username), ("password", login.password)) if v is not None}

    def _trust(self) -> dict[str, Any]:
        encryption = self._deployment.access.credentials.encryption
        if encryption is None:
            return {}
        if self._deployment.ca_file:
            return {"ssl": True, "ssl_ca_certs": self._deployment.ca_file}
        return {"ssl": True, **({"ssl_ca_data": encryption.ca} if encryption.ca else {})}

    def snippet(self, client: Client, audience: Audience = "host") -> str:
        """A program for a client library, with what it needs for that audience; see `bootstrap.snippet`."""
        from bootstrap.exports.clients import snippet

        return snippet(client, self._deployment, audience)

    def __repr__(self) -> str:
        return f"<Cluster {self.name!r}, {len(self.nodes)} nodes from {self.nodes[0].addresses.host}>"


class Changing(TypedDict, total=False):
    """How the shape of a running cluster is changed; every field may be left out.

    Args:
        dry_run: only tell what would change; False by default.
        timeout: seconds without progress after which it is given up, 60 by default; how long slots take to move does
            not count.
        slots_at_once: how many slots of a primary are on their way at once, at most; by default that depends on the
            size of its data.
        observer: told every event.
    """

    dry_run: bool
    timeout: float
    slots_at_once: int | None
    observer: Observer | None


class Cluster(Handle):
    """A running cluster: constants, and what can be asked of it or done with it.

    Roles are not constants, since they move with failovers: ask `status` for them.
    """

    def client(self, audience: Audience = "host", **options: Any) -> RedisCluster:
        """A new `redis.asyncio.RedisCluster`; the caller closes it. `options` go to its constructor."""
        from bootstrap.formation.client import cluster_client

        return cluster_client(**(self.connection_kwargs(audience) | options))

    async def status(self) -> Status:
        """What every node says now; nothing is written."""
        from bootstrap.operations.status import read_status

        return await read_status(self._deployment)

    async def doctor(self, *, quick: bool = False, observer: Observer | None = None) -> Diagnosis:
        """What is wrong with it, whose fault it is, and how to mend it; nothing is changed.

        Args:
            quick: only ask what the nodes believe of each other; nothing is dialled.
            observer: told every event.

        Raises:
            RuntimeUnavailable: the runtime that keeps it cannot be asked.
        """
        from bootstrap.operations.doctor import examine

        return await examine(self._deployment, Reporter(self.name, observer), quick=quick)

    async def wait(self, *, timeout: float = 60.0, observer: Observer | None = None) -> Status:
        """Wait until every node agrees on one healthy cluster; raises `NotConverged` when the time is up."""
        from bootstrap.operations.wait import wait_healthy

        async def find() -> Deployment:
            return self._deployment

        return await wait_healthy(find, Reporter(self.name, observer), nodes=len(self.nodes), timeout=timeout)

    async def logs(self, node: str | int, *, tail: int | None = None) -> str:
        """A node's log, or its last lines; raises `UsageError` for servers that somebody else runs."""
        text: str = await self._runtime().logs(self.name, self.node(node).name, tail=tail)
        return text

    async def call(self, *command: str, which: Which | Sequence[str | int] = "all") -> list[Answer]:
        """Run a command on all nodes at once, or on some; refusals and silent nodes are among the answers.

        Args:
            command: its words.
            which: ``all``, ``primaries`` or ``replicas``, or some nodes as `node` takes them.

        Raises:
            UsageError: no command, or no such node.
        """
        from bootstrap.operations.call import call

        return await call(self._deployment, command, which)

    async def failover(self, node: str | int, *, timeout: float = 60.0, observer: Observer | None = None) -> Status:
        """Let a replica take over gracefully, and wait until every node agrees that it has.

        Args:
            node: the replica; of a primary its best one takes over.
            timeout: seconds.
            observer: told every event.

        Raises:
            UsageError: no such node, or nobody can take over.
            Conflict: the nodes do not agree on a healthy cluster beforehand.
            NodeFailed: the server refused.
            NotConverged: the time is up.
        """
        from bootstrap.operations.failover import failover

        return await failover(self._deployment, node, Reporter(self.name, observer), timeout=timeout)

    async def add_node(
        self,
        *servers: str,
        number: int = 1,
        primary: bool = False,
        replica_of: str | int | Sequence[str | int] = (),
        **how: Unpack[Changing],
    ) -> Scaled:
        """Add nodes, and prove the whole: replicas where they are missed most, unless told otherwise.

        Args:
            servers: of a cluster that somebody else runs, empty servers in cluster mode: ``host:port``, or
                ``host:port@machine/zone``. Of a cluster of ours servers are started.
            number: how many are started.
            primary: as primaries, with their share of the slots.
            replica_of: the primaries that they follow, in turn.
            how: see `Changing`.

        Raises:
            UsageError: no such node, or servers that are not asked for in this way.
            Conflict: the nodes do not agree beforehand, a server is not empty, or another command is at work.
            NodeFailed: a server died, refused a command or does not answer.
            NotConverged: nothing changed for too long.
        """
        from bootstrap.operations.form import parse_targets
        from bootstrap.operations.requests import AddNodes

        request = AddNodes(len(servers) or number, primary, _refs(replica_of), parse_targets(servers))
        return await self._reshape(request, **how)

    async def remove_node(
        self,
        *nodes: str | int,
        fewer_replicas: bool = False,
        lose_data: bool = False,
        **how: Unpack[Changing],
    ) -> Scaled:
        """Remove nodes: primaries hand over their slots first, and their replicas go where they are missed most.

        Args:
            nodes: which ones, as `node` takes them. Servers of ours are removed with their data, those of others reset.
            fewer_replicas: even where that leaves a primary with fewer replicas than asked for.
            lose_data: even where a node that does not answer has the only copy of its keys.
            how: see `Changing`.

        Raises:
            UsageError, NodeFailed, NotConverged: see `add_node`.
            Conflict: data or replicas would be lost, and it was not said that they may be; otherwise see `add_node`.
        """
        from bootstrap.operations.requests import RemoveNodes

        request = RemoveNodes(nodes, fewer_replicas, lose_data)
        return await self._reshape(request, **how)

    async def rebalance(
        self,
        weights: Weights | None = None,
        *,
        threshold: float = 2.0,
        **how: Unpack[Changing],
    ) -> Scaled:
        """Give every primary its share of the slots, moving as few as possible; clients read and write meanwhile.

        Args:
            weights: of primaries, 1 where they are not named; 0 empties one.
            threshold: per cent of its share that a primary may be off; where none is off by more nothing moves.
            how: see `Changing`.

        Raises:
            UsageError, Conflict, NodeFailed, NotConverged: see `add_node`.
        """
        from bootstrap.operations.requests import Rebalance

        exact = {ref: _exact(weight, "bad-weight") for ref, weight in (weights or {}).items()}
        return await self._reshape(Rebalance(exact, _exact(threshold, "usage")), **how)

    async def reshard(
        self,
        *to: str | int,
        slots: Iterable[int] = (),
        count: int = 0,
        of: str | int | Sequence[str | int] = (),
        **how: Unpack[Changing],
    ) -> Scaled:
        """Move slots to other primaries: these very ones, or so many; clients read and write meanwhile.

        Args:
            to: the primaries that get them.
            slots: which ones; then there is one target.
            count: how many, where `slots` is empty.
            of: the primaries that give; empty for all others.
            how: see `Changing`.

        Raises:
            UsageError, Conflict, NodeFailed, NotConverged: see `add_node`.
        """
        from bootstrap.operations.requests import Reshard

        return await self._reshape(Reshard(to, merge(slots), count, of=_refs(of)), **how)

    async def scale(
        self,
        nodes: int,
        replicas: int | None = None,
        **how: Unpack[Changing],
    ) -> Scaled:
        """Give a cluster of ours another size; the same call again carries on with one that was interrupted.

        Args:
            nodes: how many in all. They come and go at the end of their numbering.
            replicas: of each primary; None for as many as are asked for already.
            how: see `Changing`.

        Raises:
            SpecError: counts that give no cluster.
            UsageError, Conflict, NodeFailed, NotConverged: see `add_node`.
        """
        from bootstrap.operations.requests import Scale

        return await self._reshape(Scale(nodes, replicas), **how)

    async def _reshape(self, request: Request, **how: Unpack[Changing]) -> Scaled:
        from bootstrap.operations.scaling import reshape

        reporter = Reporter(self.name, how.get("observer"))
        dry_run = how.get("dry_run", False)
        made = await reshape(
            self._deployment,
            request,
            reporter,
            timeout=how.get("timeout", 60.0),
            dry_run=dry_run,
            slots_at_once=how.get("slots_at_once"),
        )
        # With nothing left to do its nodes may be others all the same: another handle has changed them meanwhile.
        if not dry_run and (made.changed or made.deployment.nodes != self.nodes):
            # What it was made from is not what it is any more.
            self._deployment, self.plan = made.deployment, None
        return made

    async def reset(self, *, timeout: float = 60.0, observer: Observer | None = None) -> None:
        """Make it what it was when it was created, for the next test: all servers up, all roles home, nothing stored.

        Where nothing is broken that takes some milliseconds. Keys, functions and scripts are deleted; settings that
        were changed at run time stay. Slots that were moved come back by forming it anew, with other node ids.

        Args:
            timeout: seconds.
            observer: told every event.

        Raises:
            UsageError: somebody else runs these servers.
            NotConverged: the time is up.
            NodeFailed: a server does not start, or refuses a command.
            Conflict: another command is at work on it.
        """
        from bootstrap.operations.reset import reset

        await reset(self._deployment, self.plan, Reporter(self.name, observer), timeout=timeout)

    async def stop(self) -> None:
        """Stop all servers; `create` with the same specification starts them again."""
        from bootstrap.operations.lifecycle import stop

        await stop(self._deployment)

    async def delete(self) -> None:
        """Remove the servers and all that belongs to them."""
        from bootstrap.operations.delete import delete as remove

        await remove(self._runtime(), self.name)

    def _runtime(self) -> Any:
        if self._deployment.runtime is None:
            raise UsageError("somebody else runs these servers", code="not-ours")
        return self._deployment.runtime


def plan(spec: ClusterSpec | None = None, /, *, site: Site | None = None, **fields: Unpack[SpecFields]) -> Plan:
    """Decide everything and do nothing: pure.

    Args:
        spec: what is asked for; `fields` replace single values.
        site: the facts to plan for; None assumes one host, a current server and free ports.

    Raises:
        SpecError: with every problem.
    """
    asked = replace(spec or ClusterSpec(), **fields)
    return build_plan(asked, site or Site.assumed(asked))


@asynccontextmanager
async def cluster(
    spec: ClusterSpec | None = None,
    /,
    *,
    keep: bool = False,
    observer: Observer | None = None,
    timeout: float = 60.0,
    login: Login | str | None = None,
    certificates: Certificates | None = None,
    **fields: Unpack[SpecFields],
) -> AsyncIterator[Cluster]:
    """A proven cluster for the block: 6 nodes, 1 replica, a random name and free ports unless said otherwise.

    Leaving the block, also by cancellation, removes what entering it created and nothing else: a cluster that was
    there before stays.

    Args:
        spec: what is asked for; `fields` replace single values.
        keep: leave the cluster running at the end.
        observer: told every event.
        timeout: seconds until it must be ready.
        login: who gets in: a password, or more; the specification's `user` says who logs in with it.
        certificates: what encrypts it, where the specification says `tls`; None makes some.

    Raises:
        BootstrapError: see `create`.
    """
    options = CreateOptions(
        timeout, owner=None if keep else os.getpid(), login=_login(login), certificates=certificates
    )
    made = await _create(embedded_spec(spec, fields), observer, options)
    try:
        yield Cluster(made.deployment, made.plan)
    finally:
        if made.made and not keep:
            await to_the_end(lambda: _tear_down(made.deployment))


async def _tear_down(deployment: Deployment) -> None:
    with anyio.move_on_after(TEARDOWN_SECONDS):
        await Cluster(deployment).delete()


async def create(
    spec: ClusterSpec | None = None,
    /,
    *,
    observer: Observer | None = None,
    timeout: float = 60.0,
    retain: bool = False,
    login: Login | str | None = None,
    certificates: Certificates | None = None,
    **fields: Unpack[SpecFields],
) -> Cluster:
    """Create a cluster that outlives this process, carry on with a half-made one, or verify a running one.

    Args:
        spec: what is asked for; `fields` replace single values.
        observer: told every event.
        timeout: seconds until it must be ready.
        retain: keep what was made when it fails or is cancelled.
        login: who gets in: a password, or more; the specification's `user` says who logs in with it.
        certificates: what encrypts it, where the specification says `tls`; None makes some.

    Raises:
        SpecError: the specification has problems.
        RuntimeUnavailable: servers cannot be started here.
        Conflict: the name is in use for another specification, or ports or nodes are not ours to take.
        NodeFailed: a server died or refused a command.
        NotConverged: the deadline passed.
    """
    options = CreateOptions(timeout, retain=retain, login=_login(login), certificates=certificates)
    made = await _create(embedded_spec(spec, fields), observer, options)
    return Cluster(made.deployment, made.plan)


async def form(
    *servers: str,
    replicas: int = 0,
    password: str | None = None,
    username: str | None = None,
    ca: str | None = None,
    observer: Observer | None = None,
    timeout: float = 60.0,
) -> Cluster:
    """Form a cluster of servers that somebody else runs, and prove it.

    Args:
        servers: ``host:port``, or ``host:port@machine/zone`` to declare a failure domain.
        replicas: replicas of each primary.
        password: their password, if they ask for one.
        username: the user that it is for; None for the default user.
        ca: certificates of the authorities to trust where connections are encrypted, PEM; "" trusts the system's.
        observer: told every event.
        timeout: seconds.

    Raises:
        BootstrapError: see `bootstrap.operations.form.form`.
    """
    from bootstrap.operations.form import form as run
    from bootstrap.operations.form import parse_targets

    made = await run(
        parse_targets(servers), replicas, access_with(password, username, ca), observer=observer, timeout=timeout
    )
    return Cluster(made.deployment, made.plan)


async def attach(
    *where: str,
    password: str | None = None,
    username: str | None = None,
    ca: str | None = None,
    runtime: RuntimeKind = "auto",
    state_root: str | None = None,
) -> Cluster:
    """A handle for a running cluster.

    Args:
        where: the name of a cluster of ours, or addresses (``host:port``) of nodes of any cluster.
        password: the servers' password, if they ask for one.
        username: the user that it is for; None for the default user.
        ca: certificates of the authorities to trust where connections are encrypted, PEM; "" trusts the system's. Of
            clusters of ours password and certificates are known where they are kept.
        runtime: where to look for clusters of ours; ``auto`` looks everywhere.
        state_root: where clusters of local processes are kept.

    Raises:
        UsageError: no such cluster.
        NodeFailed: none of the addresses could be asked.
        RuntimeUnavailable: the runtime that was asked for cannot be used.
    """
    from bootstrap.operations.discover import discover
    from bootstrap.operations.form import parse_targets

    access = access_with(password, username, ca)
    if any(":" in text for text in where):
        return Cluster(await discover([target.address for target in parse_targets(where)], access))
    if len(where) > 1:
        raise UsageError("attach to one name, or to addresses", code="bad-address")
    found = await find(where[0] if where else None, runtime, state_root=state_root)
    return Cluster(await open_deployment(found.record, found.runtime, access))


async def clusters(*, runtime: RuntimeKind = "auto", state_root: str | None = None) -> Sequence[Record]:
    """The clusters of ours, running and stopped, by name.

    Args:
        runtime: where to look; ``auto`` looks everywhere, and an engine that cannot be asked has none then.
        state_root: where clusters of local processes are kept.
    """
    return [each.record for each in (await everywhere(runtime, state_root=state_root)).found]


async def delete(name: str, *, runtime: RuntimeKind = "auto", state_root: str | None = None) -> bool:
    """Remove a cluster of ours, whole or half made; whether there was one.

    Raises:
        Conflict: another command is at work on it.
        NodeFailed: something is left.
        UsageError: containers and local processes have clusters of that name, and `runtime` names neither.
        RuntimeUnavailable: the engine that may have it cannot be asked.
    """
    from bootstrap.operations.delete import delete_named

    return await delete_named(name, await everywhere(runtime, state_root=state_root, name=name))


def embedded_spec(spec: ClusterSpec | None, fields: SpecFields | Mapping[str, Any]) -> ClusterSpec:
    """The specification for programs that embed this one: a random name and free ports by default."""
    if spec is None:
        # Letters only at the end: node names then need no hyphen.
        spec = ClusterSpec(name=f"vb-{secrets.token_hex(4)}x", base_port="auto")
    return replace(spec, **fields)


def access_with(password: str | None = None, username: str | None = None, ca: str | None = None) -> Access:
    """How nodes are reached from here; redis-py is imported only when this is called."""
    from bootstrap.formation.client import connector

    return Access(connector, Credentials(password, username, None if ca is None else Encryption(ca)))


async def find(name: str | None, runtime: str = "auto", *, state_root: str | None = None) -> Found:
    """A cluster of ours by name, or the only one.

    Raises:
        UsageError: there is none of that name, or several and no name was given.
        RuntimeUnavailable: there is none, and an engine that may have it cannot be asked.
    """
    inventory = await everywhere(runtime, state_root=state_root, name=name)
    if name is None:
        # The only one that is known may not be the only one.
        refuse_unasked(inventory.unasked)
    if inventory.found:
        return only(inventory.found, name)
    refuse_unasked(inventory.unasked)
    hint = "create one: `valkey-bootstrap --nodes 6 --replicas 1`"
    if name is None:
        raise UsageError("there is no cluster", code="no-such-cluster", hint=hint)
    names = [each.record.name for each in (await everywhere(runtime, state_root=state_root)).found]
    raise UsageError(
        f'there is no cluster "{name}"', code="no-such-cluster", hint=f"there are: {listing(names)}" if names else hint
    )


def _refs(given: str | int | Sequence[str | int]) -> tuple[str | int, ...]:
    """One node or several: a name is no sequence of letters here."""
    return (given,) if isinstance(given, str | int) else tuple(given)


def _exact(number: float, code: str) -> Fraction:
    """The number as it is written: 0.1 is a tenth."""
    try:
        return Fraction(str(number))
    except ValueError as error:
        raise UsageError(f"{number} is not a finite number", code=code, hint="such as 1 or 0.5") from error


def _login(given: Login | str | None) -> Login:
    return given if isinstance(given, Login) else Login(given)


async def _create(spec: ClusterSpec, observer: Observer | None, options: CreateOptions) -> Created:
    from bootstrap.operations.create import create as run

    return await run(spec, access_with(), observer=observer, options=options)
