"""Another shape as programs ask for it: the methods of both handles, on a cluster that each test leaves as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
import redis
from blockbuster import BlockBuster, blockbuster_ctx

import bootstrap
from bootstrap import Change, Cluster, Event, Scaled, SlotMove, Status, blocking

from .conftest import Command, find_server, nodes_known_to, setting
from .servers import Servers
from .shapes import QUIET, Shape

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("scaling-api")]

Roles = Mapping[str, str | int]
"""How many slots a node has, or whom it follows."""

HOME: Roles = {"shop0": 8192, "shop1": 8192, "shop2": "shop1", "shop3": "shop0"}
KEYS = {f"key{number}": str(number) for number in range(100)}
STATUS_KEYS = {"format_version", "name", "runtime", "health", "login", "tls", "doubts", "nodes"}
CHANGE_KEYS = {"changed", "seconds", "changes", "moves"}


def roles(status: Status | None) -> dict[str, str | int]:
    assert status is not None
    assert status.healthy
    return {node.name: node.primary or sum(last - first + 1 for first, last in node.slots) for node in status.nodes}


def sizes(found: Roles) -> set[int]:
    return {role for role in found.values() if isinstance(role, int)}


def names(cluster: Cluster | blocking.Cluster) -> list[str]:
    return [node.name for node in cluster.nodes]


def moved(made: Scaled) -> int:
    return sum(move.count for move in made.moves)


def signs(made: Scaled) -> list[str]:
    return [change.sign + change.node for change in made.changes]


class Heard:
    """An observer that keeps what it is told, and does something when a phase begins."""

    def __init__(self, when: str = "", then: Callable[[], object] = lambda: None) -> None:
        self.events: list[Event] = []
        self._when, self._then = when, then

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if event.name == "phase.started" and event.fields["phase"] == self._when:
            self._then()

    def phases(self, name: str = "phase.finished") -> list[str]:
        """Those that came to their end, or began."""
        return [event.fields["phase"] for event in self.events if event.name == name]


@dataclass(frozen=True, slots=True)
class World:
    """The shared cluster's files, processes and keys."""

    shape: Shape

    @property
    def root(self) -> str:
        """The state root, as the library takes it."""
        return str(self.shape.command.root)

    def spec(self) -> bootstrap.SpecFields:
        """What it was made of."""
        return {
            "name": "shop", "nodes": 4, "replicas": 1, "runtime": "process", "state_root": self.root,
            "server": find_server("valkey-9.1"),
        }  # fmt: skip

    def record(self) -> bytes:
        """What is recorded of it."""
        return (self.shape.folder / "cluster.json").read_bytes()

    def servers(self) -> set[str]:
        """The nodes whose servers run."""
        return {Path(process.cwd()).name for process in self.shape.command.processes()}

    def assert_only(self, nodes: list[str], port: int) -> None:
        """Nobody else is recorded, runs, has files or is known; and no setting of a change is left."""
        record = self.shape.record()
        assert record["underway"] is None
        assert {node["name"] for node in record["nodes"]} == set(nodes) == self.servers()
        assert {path.name for path in self.shape.folder.iterdir() if path.name.startswith("shop")} == set(nodes)
        known = nodes_known_to(port)
        assert len(known) == len(nodes)
        for node in known.values():
            assert nodes_known_to(node.port).keys() == known.keys()
            assert {key: setting(node.port, key) for key in QUIET} == QUIET

    def assert_kept(self, port: int) -> None:
        """Every key is there."""
        with redis.RedisCluster(host="127.0.0.1", port=port, decode_responses=True) as client:
            assert {key: client.get(key) for key in KEYS} == KEYS


@pytest.fixture(scope="module")
def world(shared_command: Command) -> Iterator[World]:
    """Two primaries with a replica each, and some keys."""
    world = World(Shape(shared_command, "shop"))
    made = blocking.create(**world.spec())
    with made.client() as client:
        for key, value in KEYS.items():
            assert client.set(key, value)
    yield world
    made.delete()
    shared_command.assert_nothing_left()


@pytest.fixture
async def shop(world: World, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[Cluster]:
    """A handle that knows what the cluster was made from. Afterwards all is as before, and nothing was printed."""
    made = await bootstrap.create(**world.spec())
    assert made.plan is not None
    yield made
    assert roles(await made.status()) == pytest.approx(HOME, abs=5), "but for a few slots that rounding moved"
    port = made.endpoints()[0].port
    world.assert_only(names(made), port)
    world.assert_kept(port)
    assert capfd.readouterr() == ("", "")
    # As many slots as before are not the same ones.
    for index, slots in enumerate((range(8192), range(8192, 16384))):
        await made.reshard(index, slots=slots)


@pytest.fixture
def blockbuster() -> Iterator[BlockBuster]:
    """A blocking call on the event loop is an error."""
    with blockbuster_ctx() as found:
        yield found


# The five, on the event loop.


async def test_replicas_come_and_go(shop: Cluster, world: World) -> None:
    before, record, plan = shop.nodes, world.record(), shop.plan
    planned = await shop.add_node(number=3, replica_of=[1, "shop0"], dry_run=True)
    assert (planned.changed, planned.status) == (False, None)
    assert (shop.nodes, shop.plan, world.record()) == (before, plan, record)
    assert world.servers() == set(names(shop))

    heard = Heard()
    made = await shop.add_node(number=3, replica_of=[1, "shop0"], observer=heard)
    assert names(shop) == [f"shop{index}" for index in range(7)]
    assert made.deployment.nodes == shop.nodes
    assert shop.plan is None, "what it was made from is not what it is"
    texts = {"shop4": "replica of shop1", "shop5": "replica of shop0", "shop6": "replica of shop1"}
    addresses = {name: str(shop.node(name).addresses.host) for name in texts}
    assert made.changes == tuple(Change("+", name, text, addresses[name]) for name, text in texts.items())
    assert (made.changes, made.moves) == (planned.changes, planned.moves)
    assert (made.changed, made.moves) == (True, ())
    assert made.seconds > 0
    assert roles(made.status) == roles(await shop.status())
    assert roles(made.status) == {**HOME, "shop4": "shop1", "shop5": "shop0", "shop6": "shop1"}
    assert heard.phases() == heard.phases("phase.started") == ["settle", "start", "join", "replicas"]
    assert {event.cluster for event in heard.events} == {"shop"}

    heard = Heard()
    gone = await shop.remove_node("shop4", 5, addresses["shop6"], observer=heard)
    assert signs(gone) == ["-shop4", "-shop5", "-shop6"]
    assert heard.phases() == ["settle", "forget"]
    assert shop.nodes == before


async def test_primaries_come_with_their_share_and_go(shop: Cluster, blockbuster: BlockBuster) -> None:
    heard = Heard()
    made = await shop.add_node(primary=True, observer=heard)
    assert heard.phases() == ["settle", "start", "join", "move"]
    assert signs(made) == ["~shop0", "~shop1", "+shop4"]
    assert [(move.source, move.target) for move in made.moves] == [("shop0", "shop4"), ("shop1", "shop4")]
    assert moved(made) == roles(made.status)["shop4"] == 5461
    assert {event.fields["total"] for event in heard.events if event.name == "phase.progressed"} >= {5461}
    heard = Heard()
    gone = await shop.remove_node(4, observer=heard)
    assert heard.phases() == ["settle", "move", "forget"]
    assert (signs(gone), moved(gone)) == (["~shop0", "~shop1", "-shop4"], 5461)


async def test_the_whole_is_given_another_size(shop: Cluster, blockbuster: BlockBuster) -> None:
    planned = await shop.scale(6, dry_run=True)
    assert len(shop.nodes) == 4
    made = await shop.scale(6)
    assert (made.changes, made.moves) == (planned.changes, planned.moves)
    assert signs(made) == ["~shop0", "~shop1", "+shop4", "+shop5"]
    assert sizes(roles(made.status)) == {5461, 5462}
    again = await shop.scale(nodes=6)
    assert (again.changed, again.changes, again.moves) == (False, (), ())
    assert roles(again.status) == roles(made.status)
    more = await shop.scale(6, 2)
    assert len(sizes(roles(more.status))) == 1, "two primaries of 8192 slots, and two replicas of each"
    assert not (await shop.scale(6)).changed, "as many replicas as are asked for"
    fewer = await shop.scale(nodes=4, replicas=1)
    assert (signs(fewer), fewer.moves) == (["-shop4", "-shop5"], ())


async def test_weights_spread_slots(shop: Cluster) -> None:
    weights, plan = {0: 3, 1: 1.0}, shop.plan
    assert not (await shop.rebalance()).changed
    assert shop.plan is plan
    planned = await shop.rebalance(weights, dry_run=True)
    assert roles(await shop.status()) == HOME
    heard = Heard()
    made = await shop.rebalance(weights, observer=heard)
    assert heard.phases() == ["settle", "move"]
    assert made.moves == planned.moves == (SlotMove("shop1", "shop0", ((12288, 16383),)),)
    assert roles(made.status) == {**HOME, "shop0": 12288, "shop1": 4096}
    assert shop.plan is None
    assert not (await shop.rebalance(weights)).changed
    await shop.rebalance({"shop0": 0.1, "shop1": 0.1}, threshold=0)


async def test_slots_move_by_range_and_by_count(shop: Cluster) -> None:
    made = await shop.reshard("shop1", slots=(slot for slot in range(8192) if slot % 4096 < 5))
    assert made.moves == (SlotMove("shop0", "shop1", ((0, 4), (4096, 4100))),)
    first, second, *_ = map(str, shop.endpoints())
    assert made.changes == (
        Change("~", "shop0", "primary of 8192 slots -> primary of 8182 slots", first),
        Change("~", "shop1", "primary of 8192 slots -> primary of 8202 slots", second),
    )
    assert not (await shop.reshard(1, slots=[0, 4100])).changed, "they are there"
    made = await shop.reshard(1, count=90, of=["shop0"])
    assert moved(made) == 90
    assert roles(made.status) == {**HOME, "shop0": 8092, "shop1": 8292}
    assert not (await shop.rebalance()).changed, "100 of 8192 are less than 2 per cent"
    assert moved(await shop.rebalance(threshold=1)) == 100


async def test_the_json_form(shop: Cluster) -> None:
    planned = (await shop.reshard(0, count=7, of=[1], dry_run=True)).as_dict()
    assert 0 < planned.pop("seconds") < 60
    assert planned == {
        "format_version": 1,
        "name": "shop",
        "changed": False,
        "changes": [
            {"action": "change", "node": name, "text": f"primary of 8192 slots -> primary of {after} slots",
             "address": str(shop.node(name).addresses.host)}
            for name, after in (("shop0", 8199), ("shop1", 8185))
        ],
        "moves": [{"source": "shop1", "target": "shop0", "slots": [[16377, 16383]]}],
    }  # fmt: skip
    found = (await shop.reshard(0, count=7, of=[1])).as_dict()
    assert found.keys() == STATUS_KEYS | CHANGE_KEYS
    assert (found["changed"], found["health"], found["doubts"]) == (True, "ok", [])
    assert (found["changes"], found["moves"]) == (planned["changes"], planned["moves"])
    assert [node["name"] for node in found["nodes"]] == names(shop)
    unchanged = (await shop.rebalance()).as_dict()
    assert unchanged.keys() == STATUS_KEYS | CHANGE_KEYS
    assert (unchanged["changed"], unchanged["changes"], unchanged["moves"]) == (False, [], [])
    await shop.reshard(1, slots=range(16377, 16384))


# What is refused.

Request = Callable[[Cluster], Awaitable[Scaled]]

TWICE: dict[str | int, float] = {0: 2, "shop0": 3}
USAGE: list[tuple[str, Request]] = [
    ("no-such-node", lambda shop: shop.remove_node("nobody")),
    ("no-such-node", lambda shop: shop.remove_node(0, 9)),
    ("usage", lambda shop: shop.remove_node()),
    ("no-such-node", lambda shop: shop.add_node(replica_of=["nobody"])),
    ("not-a-primary", lambda shop: shop.add_node(replica_of="shop2")),
    ("not-a-primary", lambda shop: shop.add_node(replica_of=["shop2"])),
    ("usage", lambda shop: shop.add_node(replica_of=[0], primary=True)),
    ("usage", lambda shop: shop.add_node(number=0)),
    ("usage", lambda shop: shop.add_node(number=-1)),
    ("ours", lambda shop: shop.add_node("127.0.0.1:7001")),
    ("bad-address", lambda shop: shop.add_node("nowhere")),
    ("no-such-node", lambda shop: shop.rebalance({"nobody": 1})),
    ("no-such-node", lambda shop: shop.rebalance({"shop2": 1})),
    ("bad-weight", lambda shop: shop.rebalance({0: -1})),
    ("bad-weight", lambda shop: shop.rebalance({0: 0, 1: 0})),
    ("bad-weight", lambda shop: shop.rebalance({0: float("inf")})),
    ("usage", lambda shop: shop.rebalance(TWICE)),
    ("usage", lambda shop: shop.rebalance(slots_at_once=0)),
    ("usage", lambda shop: shop.rebalance(threshold=float("nan"))),
    ("usage", lambda shop: shop.reshard(0)),
    ("usage", lambda shop: shop.reshard(0, slots=[1], count=1)),
    ("usage", lambda shop: shop.reshard(0, 1, slots=[1])),
    ("no-target", lambda shop: shop.reshard(count=1)),
    ("no-such-node", lambda shop: shop.reshard(2, count=1)),
    ("same-node", lambda shop: shop.reshard(0, count=1, of=[0])),
    ("bad-slots", lambda shop: shop.reshard(0, slots=[16384])),
    ("bad-slots", lambda shop: shop.reshard(0, slots=[-1])),
    ("bad-slots", lambda shop: shop.reshard(0, count=-1)),
    ("bad-slots", lambda shop: shop.reshard(0, count=8193)),
]
IMPOSSIBLE: list[Request] = [lambda shop: shop.scale(0), lambda shop: shop.scale(3, 3), lambda shop: shop.scale(1)]
CONFLICTS: list[tuple[str, Request]] = [
    ("too-few-replicas", lambda shop: shop.remove_node(2)),
    ("last-primary", lambda shop: shop.remove_node(0, 1, fewer_replicas=True)),
]


async def test_what_cannot_be_is_refused_and_changes_nothing(shop: Cluster, world: World) -> None:
    record, plan, nodes = world.record(), shop.plan, shop.nodes
    for code, request in USAGE:
        with pytest.raises(bootstrap.UsageError) as wrong:
            await request(shop)
        assert wrong.value.code == code
    for request in IMPOSSIBLE:
        with pytest.raises(bootstrap.SpecError):
            await request(shop)
    for code, request in CONFLICTS:
        with pytest.raises(bootstrap.Conflict) as refused:
            await request(shop)
        assert refused.value.code == code
        assert refused.value.hint
    assert (world.record(), shop.plan, shop.nodes) == (record, plan, nodes)


async def test_a_node_that_there_is_not(shop: Cluster) -> None:
    with pytest.raises(bootstrap.UsageError, match="no node 'nobody'") as told:
        await shop.remove_node("nobody", dry_run=True)
    assert "shop0, shop1, shop2, shop3" in told.value.hint


# Cut short.


@pytest.mark.parametrize(("moment", "nodes"), [("start", 5), ("move", 6)])
async def test_what_was_cancelled_is_carried_on_by_the_same_call(
    shop: Cluster, world: World, moment: str, nodes: int
) -> None:
    port = shop.endpoints()[0].port
    with anyio.CancelScope() as scope:
        await shop.scale(nodes, observer=Heard(moment, scope.cancel))
    assert scope.cancelled_caught
    assert len(shop.nodes) == 4
    if moment == "start":
        # Nobody knew the new servers yet.
        world.assert_only(names(shop), port)
        assert roles(await shop.status()) == HOME
    else:
        with pytest.raises(bootstrap.Conflict, match="scale --nodes 6") as unfinished:
            await shop.rebalance()
        assert unfinished.value.code == "unfinished"
    again = Heard()
    made = await shop.scale(nodes, observer=again)
    assert made.changed
    assert ("start" in again.phases()) == (moment == "start"), "no server is started twice"
    assert ("move" in again.phases()) == (moment == "move")
    assert sizes(roles(made.status)) == ({8192} if nodes == 5 else {5461, 5462})
    world.assert_only([f"shop{index}" for index in range(nodes)], port)
    if moment == "move":
        with anyio.CancelScope() as scope:
            await shop.scale(4, observer=Heard("forget", scope.cancel))
        assert scope.cancelled_caught
    assert (await shop.scale(4)).changed


# Without an event loop, and several handles.


def test_the_five_for_a_block_without_an_event_loop(command: Command, capfd: pytest.CaptureFixture[str]) -> None:
    with blocking.cluster(nodes=2, replicas=1, runtime="process", state_root=str(command.root)) as cluster:
        with pytest.raises(bootstrap.UsageError, match="no node 'nobody'"):
            cluster.remove_node("nobody")
        assert not cluster.scale(2).changed
        plan = cluster.plan
        planned = cluster.scale(3, dry_run=True)
        assert (planned.changed, len(cluster.nodes), cluster.plan) == (False, 2, plan)
        heard = Heard()
        made = cluster.scale(3, observer=heard)
        assert heard.phases() == ["settle", "start", "join", "replicas"]
        assert (made.changes, made.changed, len(cluster.nodes), cluster.plan) == (planned.changes, True, 3, None)
        first, second, third = names(cluster)
        assert signs(cluster.remove_node(third)) == [f"-{third}"]
        assert names(cluster) == [first, second]
        made = cluster.add_node(primary=True)
        assert (moved(made), names(cluster)[-1]) == (8192, third)
        assert roles(cluster.reshard(third, count=1192, of=[0]).status)[third] == 9384
        assert roles(cluster.rebalance({first: 3}).status)[first] == 12288
        assert len(names(cluster)) == len(cluster.endpoints()) == len(cluster.status().nodes) == 3
        assert len(command.processes()) == 3
        with cluster.client() as client:
            assert client.set("key", "value")
    command.assert_nothing_left()
    assert capfd.readouterr() == ("", "")


async def test_leaving_the_block_removes_the_nodes_added_meanwhile(command: Command) -> None:
    with anyio.CancelScope() as scope:
        async with bootstrap.cluster(nodes=1, replicas=0, runtime="process", state_root=str(command.root)) as cluster:
            await cluster.add_node()
            assert len(cluster.nodes) == len(command.processes()) == 2
            # In the middle of a change, too.
            await cluster.scale(4, observer=Heard("join", scope.cancel))
    assert scope.cancelled_caught
    command.assert_nothing_left()


async def test_another_handle_has_changed_it(shop: Cluster, world: World) -> None:
    other = await bootstrap.attach("shop", runtime="process", state_root=world.root)
    await other.add_node()
    assert (len(other.nodes), len(shop.nodes)) == (5, 4)
    assert not (await shop.scale(5, dry_run=True)).changes
    assert len(shop.nodes) == 4
    # There is nothing to do, but to learn of it.
    assert not (await shop.scale(5)).changed
    assert (shop.nodes, shop.plan) == (other.nodes, None)
    await shop.remove_node(4)


async def test_one_change_at_a_time(shop: Cluster, world: World) -> None:
    mine, other = (blocking.attach("shop", runtime="process", state_root=world.root) for _ in range(2))
    told: list[str] = []

    def disturb() -> None:
        for dry_run in (False, True):
            with pytest.raises(bootstrap.Conflict) as refused:
                other.rebalance(dry_run=dry_run)
            told.append(refused.value.code)
        assert other.scale(6, dry_run=True).changes, "the whole may be planned at any time"

    # Observers are called in the thread of the call, which waits for them.
    mine.reshard(1, count=10, of=[0], observer=Heard("move", disturb))
    assert told == ["busy", "unfinished"]
    assert roles(await shop.status()) == {**HOME, "shop0": 8182, "shop1": 8202}
    mine.reshard(0, slots=range(8182, 8192))


async def test_an_observer_that_raises_ends_it(shop: Cluster, world: World) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    mine = blocking.attach("shop", runtime="process", state_root=world.root)
    with pytest.raises(ZeroDivisionError):
        mine.reshard(1, count=1000, of=[0], observer=Heard("move", fail))
    assert roles(await shop.status()) == HOME
    made = mine.reshard(1, count=1000, of=[0])
    assert roles(made.status) == {**HOME, "shop0": 7192, "shop1": 9192}
    await shop.rebalance()


# Servers of others.


async def test_servers_that_somebody_else_runs(shop: Cluster, tmp_path: Path) -> None:
    # Found by an address, nobody's servers are ours.
    found = await bootstrap.attach(str(shop.endpoints()[0]))
    for request in (found.scale(6), found.add_node(), found.add_node(number=2, primary=True)):
        with pytest.raises(bootstrap.UsageError) as told:
            await request
        assert told.value.code == "not-ours"
    servers = Servers(tmp_path)
    try:
        new = servers.start()
        made = await found.add_node(f"{new.address}@elsewhere/z", primary=True)
        assert [change.node for change in made.changes if change.sign == "+"] == [new.address]
        node = found.node(new.address)
        assert (len(found.nodes), node.host, node.zone) == (5, "elsewhere", "z")
        assert moved(made) == 5461
        await found.remove_node(new.address)
        assert len(found.nodes) == 4
        assert len(nodes_known_to(new.port)) == 1, "it runs, and knows nobody"
    finally:
        servers.close()
