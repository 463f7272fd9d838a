"""`create` over servers in memory: what it tells, what it leaves, and what it does about every kind of trouble."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from bootstrap.errors import BootstrapError, Conflict, NodeFailed, NotConverged, PortTaken, SpecError
from bootstrap.events import Event
from bootstrap.formation.base import Command
from bootstrap.judging.agreement import agree
from bootstrap.judging.pace import HEAD_START_FROM
from bootstrap.operations.create import Created, CreateOptions, create
from bootstrap.operations.deployment import Access
from bootstrap.planning.spec import ClusterSpec
from bootstrap.runtimes.base import Runtime
from bootstrap.testing import FakeRuntime, FakeServers

CHANGES = {"SET-CONFIG-EPOCH", "ADDSLOTSRANGE", "MEET", "REPLICATE", "FORGET"}
NAMES = [f"valkey{index}" for index in range(6)]


class Lab:
    """Servers, a runtime and everything that was told; `on` reacts to an event."""

    def __init__(self) -> None:
        self.servers = FakeServers()
        self.runtime = FakeRuntime(self.servers)
        self.told: list[Event] = []
        self.reactions: dict[str, Callable[[Event], object]] = {}

    async def create(self, *, timeout: float = 10, retain: bool = False, **fields: Any) -> Created:
        runtime: Runtime = self.runtime
        return await create(
            ClusterSpec(**fields),
            Access(self.servers.connector),
            runtime=runtime,
            observer=self._hear,
            options=CreateOptions(timeout=timeout, retain=retain),
        )

    def on(self, name: str, reaction: Callable[[Event], object]) -> None:
        self.reactions[name] = reaction

    def _hear(self, event: Event) -> None:
        self.told.append(event)
        if event.name in self.reactions:
            self.reactions[event.name](event)

    def fields(self, name: str) -> list[dict[str, Any]]:
        return [dict(event.fields) for event in self.told if event.name == name]

    def changes(self) -> list[tuple[str, Command]]:
        """Every command so far that changed a server."""
        cluster = [each for each in self.servers.journal if each[1][0] == "CLUSTER" and each[1][1] in CHANGES]
        others = [
            each for each in self.servers.journal if each[1][:2] == ("CONFIG", "SET") or each[1][0] in ("SET", "DEL")
        ]
        return cluster + others

    def setting(self, key: str) -> set[str]:
        return {server.known_settings()[key] for server in self.servers}

    async def names(self) -> list[str]:
        return [record.name for record in await self.runtime.inventory()]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lab:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # logs that are saved before a rollback
    return Lab()


async def test_the_story_of_a_creation(lab: Lab) -> None:
    made = await lab.create()
    assert (made.made, made.changed) == (True, True)
    found = agree(lab.servers.simulation.views())
    assert found.healthy
    assert found.layout == made.plan.layout
    assert [node.name for node in made.deployment.nodes] == NAMES
    names = [event.name for event in lab.told]
    assert names[0] == "plan.made"
    assert names[-1] == "cluster.ready"
    assert names.index("node.started") < names.index("node.answered") < names.index("steps.ran")
    assert names.index("settings.restored") > max(at for at, name in enumerate(names) if name == "steps.ran")
    assert [fields["node"] for fields in lab.fields("node.started")] == NAMES
    assert {fields["node"] for fields in lab.fields("node.answered")} == set(NAMES)
    phases = [fields["phase"] for fields in lab.fields("phase.started")]
    assert phases[0] == "start"
    assert phases[-1] == "proof"
    assert phases == [fields["phase"] for fields in lab.fields("phase.finished")]
    assert lab.fields("settings.restored") == [{"nodes": 6}]
    assert lab.fields("cluster.ready")[0]["created"] is True
    assert [event.at for event in lab.told] == sorted(event.at for event in lab.told)


async def test_the_proof_writes_to_every_primary_and_leaves_nothing(lab: Lab) -> None:
    made = await lab.create()
    written = [(name, command[0]) for name, command in lab.servers.journal if command[0] in ("SET", "GET", "DEL")]
    expected = [(node.name, word) for node in made.plan.primaries for word in ("SET", "GET", "DEL")]
    assert sorted(written) == sorted(expected)
    assert not any(node.keys for node in lab.servers.simulation.nodes.values())


async def test_the_window_is_open_while_it_forms_and_shut_afterwards(lab: Lab) -> None:
    seen: list[set[str]] = []
    lab.on("steps.ran", lambda event: seen.append(lab.setting("cluster-node-timeout")))
    await lab.create(settings={"cluster-node-timeout": "7000", "repl-diskless-sync-delay": "3"})
    assert seen
    assert all(values == {"500"} for values in seen)
    assert lab.setting("cluster-node-timeout") == {"7000"}
    assert lab.setting("repl-diskless-sync-delay") == {"3"}
    assert lab.setting("cluster-ping-interval") == {"0"}
    assert lab.setting("repl-diskless-load") == {"disabled"}


async def test_a_healthy_cluster_is_verified_and_not_touched(lab: Lab) -> None:
    await lab.create()
    lab.servers.simulation.put("valkey0", "k", "v")
    before = lab.changes()
    lab.told.clear()
    again = await lab.create()
    assert (again.made, again.changed) == (False, False)
    assert lab.changes() == before
    assert not lab.fields("steps.ran")
    assert lab.fields("cluster.ready")[0]["created"] is False
    assert lab.servers.simulation.nodes["valkey0"].keys == {"db0": 1}


async def test_settings_that_a_killed_run_left_open_are_put_back(lab: Lab) -> None:
    await lab.create()
    lab.servers["valkey2"].settings["cluster-node-timeout"] = "500"
    lab.told.clear()
    await lab.create()
    assert lab.setting("cluster-node-timeout") == {"5000"}
    assert lab.fields("settings.restored") == [{"nodes": 1}]


async def test_roles_that_moved_are_no_reason_to_do_anything(lab: Lab) -> None:
    made = await lab.create()
    successor = made.plan.replicas[0].name
    lab.servers.simulation.fail_over(successor)
    before = lab.changes()
    assert (await lab.create()).changed is False
    assert lab.changes() == before
    assert lab.servers.simulation.nodes[successor].primary is None


async def test_a_stopped_cluster_is_started_with_its_keys(lab: Lab) -> None:
    await lab.create()
    lab.servers.simulation.put("valkey0", "k", "v")
    for name in NAMES:
        await lab.runtime.control("valkey", name, "stop")
    before = len(lab.changes())
    again = await lab.create()
    assert (again.made, again.changed) == (False, True)
    assert lab.servers.simulation.nodes["valkey0"].keys == {"db0": 1}
    assert not [each for each in lab.changes()[before:] if each[1][0] == "CLUSTER"]


async def test_a_node_that_lost_its_data_is_made_a_replica_again(lab: Lab) -> None:
    made = await lab.create()
    lab.servers.simulation.put("valkey0", "k", "v")
    lost = made.plan.replicas[0].name
    lab.servers.simulation.lose(lost)
    again = await lab.create()
    assert (again.made, again.changed) == (False, True)
    found = agree(lab.servers.simulation.views())
    assert found.healthy
    assert found.layout == made.plan.layout
    assert sum(len(node.keys) for node in lab.servers.simulation.nodes.values()) == 2, "no proof was written beside it"


async def test_another_specification_is_refused_by_field(lab: Lab) -> None:
    await lab.create()
    before = list(lab.servers.journal)
    with pytest.raises(Conflict, match="nodes is 6, asked for is 8; zones is nothing, asked for is a,b") as caught:
        await lab.create(nodes=8, zones=("a", "b"))
    assert caught.value.code == "spec-differs"
    assert "delete --name valkey" in caught.value.hint
    assert lab.servers.journal == before


async def test_a_specification_with_problems_reaches_no_server(lab: Lab) -> None:
    with pytest.raises(SpecError):
        await lab.create(nodes=1, replicas=1)
    assert not lab.told
    assert not await lab.names()


@pytest.mark.parametrize("base_port", [None, "auto"])
async def test_a_port_taken_after_the_survey_leads_to_another_block(lab: Lab, base_port: Any) -> None:
    first = 6379 if base_port is None else 10000
    lab.runtime.taken_after_survey[first + 2] = "redis-server (pid 7)"
    made = await lab.create(base_port=base_port)
    ports = [node.addresses.control.port for node in made.plan.nodes]
    assert first + 2 not in ports
    assert any("taking another one" in fields["message"] for fields in lab.fields("note.made"))
    assert await lab.names() == ["valkey"]


async def test_a_strict_port_taken_after_the_survey_is_an_error(lab: Lab) -> None:
    lab.runtime.taken_after_survey[6381] = "redis-server (pid 7)"
    with pytest.raises(PortTaken, match=r"6381 is held by redis-server \(pid 7\)") as caught:
        await lab.create(base_port=6379)
    assert list(caught.value.ports) == [6381]
    assert not await lab.names()


async def test_ports_that_are_lost_at_the_bind_are_tried_a_few_times(lab: Lab) -> None:
    lab.runtime.deaths["valkey4"] = "# Could not create server TCP listening socket: bind: Address already in use\n"
    with pytest.raises(PortTaken):
        await lab.create()
    assert len(lab.fields("plan.made")) == 5
    assert not await lab.names()
    assert not list(lab.servers)


DEATH = "*** FATAL CONFIG FILE ERROR (Version 9.1.2) ***\nReading the configuration file, at line 9\nBad directive\n"


async def test_a_server_that_dies_is_told_with_its_log_and_all_is_removed(lab: Lab, tmp_path: Path) -> None:
    lab.runtime.deaths["valkey4"] = DEATH
    with pytest.raises(NodeFailed, match="valkey4 did not stay up: it refuses its configuration") as caught:
        await lab.create()
    assert caught.value.code == "server-bad-setting"
    assert caught.value.nodes == {"valkey4": DEATH.strip()}
    assert not await lab.names()
    assert not list(lab.servers)
    (finished,) = lab.fields("rollback.finished")
    assert finished["left"] == ()
    assert Path(finished["logs"]).parent == tmp_path
    assert (Path(finished["logs"]) / "valkey4.log").read_text() == DEATH


async def test_logs_that_cannot_be_kept_do_not_stop_the_removal(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    lab.runtime.deaths["valkey4"] = DEATH
    with pytest.raises(NodeFailed, match="valkey4 did not stay up"):
        await lab.create()
    assert not await lab.names()
    assert not list(lab.servers)
    assert "the logs could not be kept" in lab.fields("warning.raised")[-1]["message"]


async def test_retain_keeps_what_was_made_and_the_next_run_carries_on(lab: Lab) -> None:
    lab.runtime.deaths["valkey4"] = DEATH
    with pytest.raises(NodeFailed):
        await lab.create(retain=True)
    assert not lab.fields("rollback.started")
    assert (await lab.runtime.inventory("valkey"))[0].running == 5
    lab.runtime.deaths.clear()
    made = await lab.create()
    assert (made.made, made.changed) == (False, True)
    assert agree(lab.servers.simulation.views()).healthy


async def test_a_refused_command_is_told_with_the_node_and_rolled_back(lab: Lab) -> None:
    lab.on("steps.ran", lambda event: lab.servers["valkey3"].refuse(("CLUSTER", "REPLICATE"), "ERR not today"))
    with pytest.raises(NodeFailed, match=r"valkey3 refused `CLUSTER REPLICATE [0-9a-f]{40}`: ERR not today") as caught:
        await lab.create()
    assert caught.value.code == "refused"
    assert not await lab.names()
    names = [event.name for event in lab.told]
    assert names.index("settings.restored") < names.index("rollback.started") < names.index("rollback.finished")


async def test_a_failure_leaves_what_was_there_before(lab: Lab) -> None:
    made = await lab.create()
    lab.servers.simulation.lose(made.plan.replicas[0].name)
    lab.servers["valkey0"].refuse(("CLUSTER", "MEET"), "ERR not today")
    lab.servers["valkey0"].refuse(("CLUSTER", "FORGET"), "ERR not today")
    with pytest.raises(NodeFailed):
        await lab.create()
    assert await lab.names() == ["valkey"]
    assert lab.setting("cluster-node-timeout") == {"5000"}


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("moment", ["node.started", "node.answered", "steps.ran", "phase.started"])
async def test_an_interruption_cleans_up(lab: Lab, moment: str, retain: bool) -> None:
    with anyio.CancelScope() as scope:
        lab.on(moment, lambda event: scope.cancel())
        await lab.create(retain=retain)
    assert scope.cancelled_caught
    assert await lab.names() == (["valkey"] if retain else [])
    assert [fields["reason"] for fields in lab.fields("rollback.started")] == ([] if retain else ["interrupted"])
    assert lab.setting("cluster-node-timeout") <= {"5000"}
    assert lab.setting("cluster-ping-interval") <= {"0"}
    lab.reactions.clear()
    assert (await lab.create()).made is not retain
    assert agree(lab.servers.simulation.views()).healthy


@pytest.mark.parametrize("again", [False, True], ids=["once", "and again"])
@pytest.mark.parametrize("moment", ["plan.made", "node.started", "node.answered", "steps.ran", "settings.restored"])
async def test_a_cancelled_task_cleans_up_too(lab: Lab, moment: str, again: bool) -> None:
    # What asyncio.timeout does, and Ctrl-C under asyncio.run: no scope of anyio shields from that.
    task = asyncio.create_task(lab.create())

    def cancel(_event: Event) -> None:
        lab.reactions.pop(moment, None)
        task.cancel()

    lab.on(moment, cancel)
    if again:
        lab.on("rollback.started", cancel)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await lab.names() == []
    assert lab.setting("cluster-node-timeout") <= {"5000"}


@pytest.mark.parametrize("always", [False, True], ids=["once", "ever after"])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("moment", ["phase.started", "node.started", "node.answered", "steps.ran", "cluster.ready"])
async def test_an_observer_that_raises_hinders_no_cleaning_up(
    lab: Lab, moment: str, retain: bool, always: bool
) -> None:
    def refuse(event: Event) -> None:
        raise BrokenPipeError(event.name)

    def give_up(event: Event) -> None:
        if always:
            lab.reactions.update(dict.fromkeys(("settings.restored", "rollback.started", "rollback.finished"), refuse))
        refuse(event)

    lab.on(moment, give_up)
    with pytest.raises(BrokenPipeError, match=moment):
        await lab.create(retain=retain)
    assert await lab.names() == (["valkey"] if retain else [])
    assert lab.setting("cluster-node-timeout") <= {"5000"}


@pytest.mark.parametrize("moment", ["rollback.started", "rollback.finished", "settings.restored"])
async def test_an_observer_that_raises_while_it_is_cleaned_up_hides_nothing(lab: Lab, moment: str) -> None:
    def refuse(event: Event) -> None:
        raise BrokenPipeError(event.name)

    lab.on("steps.ran", lambda event: lab.servers["valkey3"].refuse(("CLUSTER", "REPLICATE"), "ERR not today"))
    lab.on(moment, refuse)
    with pytest.raises(NodeFailed, match="not today"):
        await lab.create()
    assert await lab.names() == []
    assert lab.setting("cluster-node-timeout") <= {"5000"}


async def test_the_deadline_names_the_node_with_the_blocked_bus_port(lab: Lab) -> None:
    def block(event: Event) -> None:
        if event.fields["node"] == "valkey3":
            lab.servers.simulation.set_bus("valkey3", opened=False)

    lab.on("node.started", block)
    with pytest.raises(NotConverged) as caught:
        await lab.create(timeout=1)
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert "valkey3: its bus port 127.0.0.1:16382 does not answer: a firewall drops what is sent there" in error.message
    assert "127.0.0.1:16382" in error.hint
    assert error.nodes["valkey3"].startswith("its bus port 127.0.0.1:16382 does not answer")
    assert "in handshake with 127.0.0.1:6382" in error.nodes["valkey0"]
    assert not await lab.names()


async def test_a_server_that_never_answers_is_named(lab: Lab) -> None:
    def pause(event: Event) -> None:
        if event.fields["node"] == "valkey5":
            lab.servers["valkey5"].paused = True

    lab.on("node.started", pause)
    with pytest.raises(NodeFailed, match=r"1 server did not answer within 0\.3 s") as caught:
        await lab.create(timeout=0.3)
    assert caught.value.code == "no-answer"
    assert list(caught.value.nodes) == ["valkey5"]


async def test_late_gossip_is_waited_for(lab: Lab) -> None:
    lab.servers.hold_gossip(looks=40)
    made = await lab.create()
    assert agree(lab.servers.simulation.views()).layout == made.plan.layout


async def test_two_at_once_on_one_name(lab: Lab) -> None:
    outcomes: list[object] = []

    async def one() -> None:
        try:
            outcomes.append(await lab.create())
        except BootstrapError as error:
            outcomes.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        group.start_soon(one)
    lost, won = outcomes
    assert isinstance(won, Created)
    assert isinstance(lost, Conflict)
    assert lost.code == "busy"


async def test_blank_servers_that_hold_keys_are_not_taken(lab: Lab) -> None:
    lab.on(
        "node.started", lambda event: lab.servers[event.fields["node"]].refuse(("CLUSTER",), "ERR not today", times=9)
    )
    with pytest.raises(NodeFailed):
        await lab.create(retain=True)
    for server in lab.servers:
        server.refusals.clear()
    lab.reactions.clear()
    lab.servers.simulation.put("valkey1", "k", "v", database="db3")
    with pytest.raises(Conflict, match="valkey1 holds 1 key in db3") as caught:
        await lab.create()
    assert caught.value.code == "not-empty"
    assert not [each for each in lab.changes() if each[1][0] == "CLUSTER"]
    assert await lab.names() == ["valkey"]


async def test_what_a_rollback_cannot_remove_is_told(lab: Lab) -> None:
    lab.runtime.deaths["valkey4"] = DEATH
    lab.runtime.leftovers.append("process 42")
    with pytest.raises(NodeFailed):
        await lab.create()
    assert lab.fields("rollback.finished")[0]["left"] == ("process 42",)


async def test_a_server_that_is_gone_without_a_word_is_told_as_gone(lab: Lab) -> None:
    await lab.create()
    await lab.runtime.remove("valkey", ["valkey3"])
    lab.runtime.deaths["valkey3"] = "\n"
    with pytest.raises(NodeFailed) as caught:
        await lab.create()
    assert caught.value.code == "server-gone"
    assert caught.value.nodes == {"valkey3": "is gone"}
    assert "run the same command again" in caught.value.hint


async def test_a_refusal_before_anything_was_made_speaks_of_no_removal(lab: Lab) -> None:
    lab.runtime.taken_after_survey[7001] = "redis-server (pid 7)"
    with pytest.raises(PortTaken):
        await lab.create(base_port=7000)
    assert not lab.fields("rollback.started")


async def test_a_port_that_a_stopped_cluster_lost_is_to_be_freed(lab: Lab) -> None:
    made = await lab.create()
    lab.servers.simulation.set_up("valkey2", up=False)
    lab.runtime.taken_ports[made.plan.nodes[2].addresses.control.port] = "redis-server (pid 7)"
    with pytest.raises(PortTaken) as caught:
        await lab.create()
    assert caught.value.hint == "free it, or give the cluster up: `valkey-bootstrap delete --name valkey`"
    assert await lab.names() == ["valkey"]


def early(lab: Lab) -> list[tuple[str, Command]]:
    """What servers were told before the last of them answered."""
    starting = [event.name for event in lab.told].index("phase.finished")
    lines = [line for event in lab.told[:starting] if event.name == "steps.ran" for line in event.fields["steps"]]
    return [(line.partition(": ")[0], tuple(line.partition(": ")[2].split())) for line in lines]


@pytest.mark.parametrize("replicas", [0, 1])
async def test_a_large_cluster_forms_while_it_starts(lab: Lab, replicas: int) -> None:
    made = await lab.create(nodes=HEAD_START_FROM, replicas=replicas)
    words = [command[1] for _, command in early(lab)]
    assert words.count("SET-CONFIG-EPOCH") == HEAD_START_FROM
    assert words.count("MEET") == HEAD_START_FROM * (HEAD_START_FROM - 1) // 2
    assert "REPLICATE" not in words, "that waits for the settings that make it quick"
    assert agree(made.views).layout == made.plan.layout
    assert ("valkey0", ("CONFIG", "SET", "cluster-node-timeout", "500")) in lab.servers.journal
    assert lab.setting("cluster-node-timeout") == {made.plan.nodes[0].setting("cluster-node-timeout")}
    assert any(command[0] == "SET" for _, command in lab.servers.journal), "it was made here, so that it may be written"


async def test_a_small_cluster_is_not_in_a_hurry(lab: Lab) -> None:
    await lab.create(nodes=HEAD_START_FROM - 1)
    assert early(lab) == []


async def test_what_fails_while_a_large_cluster_starts_is_found_again_afterwards(lab: Lab) -> None:
    def refuse(event: Event) -> None:
        if event.fields["node"] == "valkey3":
            lab.servers["valkey3"].refuse(("CLUSTER", "SET-CONFIG-EPOCH"), "ERR not now", times=1)

    lab.on("node.answered", refuse)
    made = await lab.create(nodes=HEAD_START_FROM)
    assert not [node for node, command in early(lab) if node == "valkey3" and command[1] == "MEET"]
    assert agree(made.views).layout == made.plan.layout


async def test_a_stranger_at_our_port_is_told_nothing_while_a_large_cluster_starts(lab: Lab) -> None:
    def take_its_place(event: Event) -> None:
        if event.fields["node"] == "valkey3":
            lab.servers["valkey3"].settings["dir"] = "/somewhere/else"

    lab.on("node.answered", take_its_place)
    await lab.create(nodes=HEAD_START_FROM)
    told = {node for node, _ in early(lab)}
    assert "valkey3" not in told
    assert len(told) == HEAD_START_FROM - 1
