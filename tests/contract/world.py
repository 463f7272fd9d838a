"""A runtime with its servers, real or fake, behind one face: what the contract suite is run against."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio

from bootstrap.errors import Taken
from bootstrap.formation.base import Command, Connect, Credentials, NodeClient, Reply, Unreachable
from bootstrap.operations.create import Created, CreateOptions, create
from bootstrap.operations.deployment import Access
from bootstrap.planning.addressing import Address, ports_used
from bootstrap.planning.plan import (
    CONFIG_FILE,
    Plan,
    PlannedNode,
    Seat,
    bind,
    build_plan,
    render_config,
    seated_spec,
    seats_of,
)
from bootstrap.planning.ports import next_ports
from bootstrap.planning.spec import ClusterSpec, node_name
from bootstrap.runtimes.base import NodeRecord, Record, Runtime
from bootstrap.testing import FakeRuntime


@dataclass
class World:
    """A runtime, how its servers are reached, and the names of two clusters that nobody else uses."""

    runtime: Runtime
    connector: Callable[[Credentials], Connect]
    name: str = "t"
    other: str = "u"

    def node(self, index: int) -> str:
        """The name of a node of the cluster that the other methods work on."""
        return node_name(self.name, index)

    async def planned(self, **fields: Any) -> Plan:
        asked: dict[str, Any] = {"name": self.name, "nodes": 2, "replicas": 0, "base_port": "auto"} | fields
        return build_plan(ClusterSpec(**asked), await self.runtime.survey())

    async def prepared(self, **fields: Any) -> Plan:
        while True:
            plan = await self.planned(**fields)
            try:
                return bind(plan, await self.runtime.prepare(plan))
            except Taken:  # by another test, between the survey and now
                continue

    async def replanned(
        self, plan: Plan, *, without: Collection[int] = (), replicas: Mapping[int, str] | None = None
    ) -> Plan:
        """The plan without some nodes, and with replicas at free ports: index -> name of the primary."""
        record = await self.record()
        site = await self.runtime.survey(record)
        seats = [seat for seat in seats_of(plan) if seat.index not in without]
        use = ports_used(record.announcement, publish=True)
        ports = next_ports(
            site, [seat.port for seat in seats], len(replicas := replicas or {}), use, base=record.base_port
        )
        new = [
            Seat(index, port, seats[0].host, primary=primary)
            for (index, primary), port in zip(replicas.items(), ports, strict=True)
        ]
        kept = replace(record.kept, seats=(*seats, *new))
        return build_plan(seated_spec(plan.spec, kept.seats), site, kept=kept)

    async def amended(self, plan: Plan, **changes: Any) -> Plan:
        """The same, recorded and bound."""
        while True:
            changed = await self.replanned(plan, **changes)
            try:
                await self.runtime.amend(changed)
            except Taken:  # by another test, between the survey and now
                continue
            return bind(changed, await self.runtime.prepare(changed))

    async def started(self, **fields: Any) -> Plan:
        plan = await self.prepared(**fields)
        for index in range(len(plan.nodes)):
            await self.start(plan, index)
        return plan

    async def begin(self, plan: Plan) -> None:
        """Prepare and start a plan."""
        bound = bind(plan, await self.runtime.prepare(plan))
        for node in bound.nodes:
            await self.launch(plan.name, node)

    async def launch(self, name: str, node: PlannedNode) -> None:
        """Start a node, and leave it to itself."""
        await self.runtime.start(name, node, {CONFIG_FILE: render_config(node)})

    async def start(self, plan: Plan, index: int) -> None:
        """Start a node, and wait until it answers."""
        node = plan.nodes[index]
        await self.launch(plan.name, node)
        async with self.client(node.addresses.control) as client:
            await eventually(lambda: answers(client))

    async def formed(self, **fields: Any) -> Created:
        asked: dict[str, Any] = {"name": self.name, "nodes": 4, "replicas": 1, "base_port": "auto"} | fields
        return await create(
            ClusterSpec(**asked),
            Access(self.connector),
            runtime=self.runtime,
            options=CreateOptions(timeout=30),
        )

    async def idle(self, index: int) -> bool:
        """A node does not run."""
        return not (await self.node_record(index)).running

    @asynccontextmanager
    async def client(self, address: Address, password: str | None = None) -> AsyncIterator[NodeClient]:
        client = await self.connector(Credentials(password))(address)
        try:
            yield client
        finally:
            await client.aclose()

    async def ask(self, plan: Plan, index: int, *command: str) -> Reply:
        """A node's reply to one command."""
        async with self.client(plan.nodes[index].addresses.control) as client:
            return (await client.run(command))[0]

    async def asks(self, plan: Plan, index: int, *commands: str) -> list[str]:
        """A node's replies to commands as people write them, as text."""
        async with self.client(plan.nodes[index].addresses.control) as client:
            written: list[Command] = [tuple(command.split()) for command in commands]
            return [str(reply) for reply in await client.run(*written)]

    async def record(self) -> Record:
        (record,) = await self.runtime.inventory(self.name)
        return record

    async def clusters(self) -> list[str]:
        """The names of this world's clusters; an engine may have those of others, too."""
        found = [record.name for record in await self.runtime.inventory()]
        assert found == sorted(found)
        return [name for name in found if name in (self.name, self.other)]

    async def node_record(self, index: int) -> NodeRecord:
        return (await self.record()).nodes[index]

    def ports(self, plan: Plan) -> list[int]:
        """The ports of this machine that a cluster takes."""
        if plan.network is None:
            there = [node.addresses for node in plan.nodes]
            return [*(each.control.port for each in there), *(each.bus_port for each in there)]
        return [each.port for node in plan.nodes if node.container for each in node.container.published]

    @contextmanager
    def occupied(self, port: int) -> Iterator[None]:
        """Somebody else holds the port."""
        if isinstance(self.runtime, FakeRuntime):
            self.runtime.taken_ports[port] = "a test"
            yield
            del self.runtime.taken_ports[port]
            return
        with socket.create_server(("127.0.0.1", port)):
            yield


async def answers(client: NodeClient) -> bool:
    try:
        return list(await client.run(("PING",))) == ["PONG"]
    except Unreachable:
        return False


async def eventually(check: Callable[[], Any], *, timeout: float = 20) -> None:
    """Wait until the check holds; the test fails when it never does."""
    with anyio.fail_after(timeout):
        while not await check():
            await anyio.sleep(0.02)
