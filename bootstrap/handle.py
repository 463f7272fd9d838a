"""The async API: free functions, and the handle of a running cluster.

Everything here is thin: constants, and one-line delegates to `bootstrap.operations`.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Unpack

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
from bootstrap.planning.spec import ClusterSpec, RuntimeKind, SpecFields
from bootstrap.planning.text import listing
from bootstrap.runtimes import Found, everywhere

if TYPE_CHECKING:
    from redis.asyncio.cluster import RedisCluster

    from bootstrap.exports.clients import Client
    from bootstrap.operations.call import Answer, Which
    from bootstrap.operations.doctor import Diagnosis
    from bootstrap.operations.status import Status
    from bootstrap.runtimes.base import Record

TEARDOWN_SECONDS = 20.0


class Handle:
    """A cluster's constants, which the asynchronous and the blocking handle share."""

    def __init__(self, deployment: Deployment, plan: Plan | None = None) -> None:
        self._deployment = deployment
        self.plan = plan
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


def _login(given: Login | str | None) -> Login:
    return given if isinstance(given, Login) else Login(given)


async def _create(spec: ClusterSpec, observer: Observer | None, options: CreateOptions) -> Created:
    from bootstrap.operations.create import create as run

    return await run(spec, access_with(), observer=observer, options=options)
