"""What is set on servers while they form: nothing of their owner's, nothing that is not put back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bootstrap.events import Reporter
from bootstrap.formation.clients import Clients, open_clients
from bootstrap.formation.window import Window, fast_window, foreign_window, own_window
from bootstrap.judging.agreement import agree
from bootstrap.judging.pace import BRISK, CALM
from bootstrap.judging.simulation import settle
from bootstrap.judging.views import NodeView, Views
from bootstrap.planning.plan import Plan, build_plan
from bootstrap.planning.site import Site
from bootstrap.planning.spec import ClusterSpec
from bootstrap.testing import FakeServers

PLAN: Plan = build_plan(ClusterSpec(nodes=4, replicas=1), Site.assumed())
TIMEOUT = "cluster-node-timeout"


@asynccontextmanager
async def formed(settings: Mapping[str, str] | None = None) -> AsyncIterator[tuple[FakeServers, Clients]]:
    """A formed cluster."""
    servers = FakeServers()
    for node in PLAN.nodes:
        servers.add(node.name, node.addresses.control, settings=settings)
    settle(PLAN, servers.simulation)
    async with open_clients(servers.connect, {n.name: n.addresses.control for n in PLAN.nodes}) as clients:
        yield servers, clients


def not_ok(views: Views) -> Views:
    """All is well but that the primaries do not say so yet."""
    return {name: replace(view, state="fail") for name, view in views.items() if isinstance(view, NodeView)}


def timeouts(servers: FakeServers) -> list[tuple[str, str]]:
    return [(node, command[3]) for node, command in servers.journal if command[:3] == ("CONFIG", "SET", TIMEOUT)]


@pytest.mark.parametrize("owners", ["15000", "3000"])
async def test_the_node_timeout_of_others_is_never_touched(owners: str) -> None:
    async with formed({TIMEOUT: owners}) as (servers, clients):
        window = await foreign_window(clients)
        calm = Window({"cluster-ping-interval": str(CALM.ping)}, window.closed, CALM)
        async with fast_window(calm, clients, Reporter("test")) as tempo:
            looked = await clients.look()
            for views in (not_ok(looked), looked):
                await tempo.keep(views, agree(views), met=False)
        assert timeouts(servers) == []
        assert {server.known_settings()[TIMEOUT] for server in servers} == {owners}


async def test_our_own_primaries_settle_sooner_and_get_their_timeout_back() -> None:
    primaries = {node.name for node in PLAN.primaries}
    async with formed() as (servers, clients):
        window = replace(own_window(PLAN), pace=CALM)
        async with fast_window(window, clients, Reporter("test")) as tempo:
            opened = len(timeouts(servers))
            waiting = not_ok(await clients.look())
            await tempo.keep(waiting, agree(waiting), met=False)
            assert set(timeouts(servers)[opened:]) == {(name, str(BRISK.timeout)) for name in primaries}
            opened = len(timeouts(servers))
            views = await clients.look()
            await tempo.keep(views, agree(views), met=False)
            assert set(timeouts(servers)[opened:]) == {(name, str(CALM.timeout)) for name in primaries}
        assert {server.known_settings()[TIMEOUT] for server in servers} == {PLAN.nodes[0].setting(TIMEOUT)}
