"""The fast window: settings that are low while a cluster forms, and restored and verified afterwards.

At their defaults the servers exchange slot maps by one random ping a second, and replicas start to synchronise after
five; a window of a second or two with small values takes that wait away (`clusterCron`, `replicationCron`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from bootstrap.concurrency import each, to_the_end
from bootstrap.errors import NodeFailed
from bootstrap.events import Reporter
from bootstrap.formation.base import ServerError
from bootstrap.formation.clients import Clients, said, several_failed
from bootstrap.judging.agreement import Agreement
from bootstrap.judging.pace import BRISK, CALM, Pace, pace_for, ready_to_settle, slower, speakers, strained
from bootstrap.judging.views import Views
from bootstrap.planning.plan import Plan
from bootstrap.planning.text import listing

RESTORE_SECONDS = 10.0

SPEAK_SECONDS = 0.15
"""How long a node is left talking: its timer ticks ten times a second (`clusterCron`)."""

DEFAULTS: Mapping[str, str] = {
    # The servers' own values for what a configuration does not mention. 0 is "node timeout / 2".
    "cluster-node-timeout": "15000",
    "cluster-ping-interval": "0",
    "repl-diskless-sync-delay": "5",
    "repl-diskless-load": "disabled",
}


def settings_of(pace: Pace, *, ours: bool) -> Mapping[str, str]:
    """The settings to open with.

    Args:
        pace: how fast the nodes are to talk.
        ours: the servers' configuration is known; on servers of others only the ping interval is touched, a hidden
            setting whose default is known, so that even after a SIGKILL the next run can tell and restore it.
    """
    if not ours:
        return {"cluster-ping-interval": str(pace.ping)}
    return {
        "cluster-node-timeout": str(pace.timeout),
        "cluster-ping-interval": str(pace.ping),
        # Otherwise a primary waits for more replicas before it sends its data.
        "repl-diskless-sync-delay": "0",
        # Otherwise a replica of Valkey 9 stores what it gets and reads it at the next tick of a second.
        "repl-diskless-load": "on-empty-db",
    }


@dataclass(frozen=True, slots=True)
class Window:
    """Which settings are opened, what each node has outside the window, and the pace of it."""

    opened: Mapping[str, str]
    closed: Mapping[str, Mapping[str, str]]
    pace: Pace


def own_window(plan: Plan) -> Window:
    """The window for nodes whose configuration is known."""
    pings = plan.server.has("cluster-ping-interval")
    pace = pace_for(len(plan.nodes), pings=pings, containers=plan.network is not None)
    opened = settings_of(pace, ours=True)
    closed = {node.name: {key: node.setting(key, DEFAULTS[key]) for key in opened} for node in plan.nodes}
    return Window(opened, closed, pace)


def gentle_window(plan: Plan) -> Window:
    """The window for a cluster in use whose configuration is known: nodes talk more, and none is flagged any sooner."""
    pings = plan.server.has("cluster-ping-interval")
    pace = pace_for(len(plan.nodes), pings=pings, containers=plan.network is not None)
    opened = {"cluster-ping-interval": str(pace.ping), "repl-diskless-sync-delay": "0"}
    closed = {node.name: {key: node.setting(key, DEFAULTS[key]) for key in opened} for node in plan.nodes}
    return Window(opened, closed, pace)


async def foreign_window(clients: Clients) -> Window:
    """The window for servers of others: nodes where the setting has a value of its owner's are left alone."""
    pace = pace_for(len(clients.names))
    opened = settings_of(pace, ours=False)
    values = await _read(clients, opened)
    # One of these can only be what an interrupted run left behind.
    low = {str(each.ping) for each in (BRISK, CALM)}
    closed = {
        name: {key: DEFAULTS[key] for key, value in (found or {}).items() if value == DEFAULTS[key] or value in low}
        for name, found in values.items()
    }
    return Window(opened, closed, pace)


@asynccontextmanager
async def fast_window(window: Window, clients: Clients, reporter: Reporter) -> AsyncIterator[Tempo]:
    """Open the window for the body, and restore and verify it afterwards, whatever happened.

    Gives what keeps the pace meanwhile.

    Raises:
        NodeFailed: a node does not have its configured values afterwards (only where the body itself did not fail).
    """
    try:
        await _open(window, clients, reporter)
        yield Tempo(window, clients, reporter)
    except BaseException:
        # One try: what does not answer now has been waited for, and is most likely about to be removed.
        for node, fault in (await _restore_whatever(window, clients, reporter, patient=False)).items():
            reporter.mention("warning.raised", message=f"{node} keeps formation settings: {fault}")
        raise
    await restore(window, clients, reporter)


class Tempo:
    """Keeps the pace while nodes form: lets calm ones speak and settle, and calms those that cannot keep up.

    Args:
        window: what was opened.
        clients: all nodes.
        reporter: told when the pace changes.
    """

    def __init__(self, window: Window, clients: Clients, reporter: Reporter) -> None:
        self._window = window
        self._clients = clients
        self._reporter = reporter
        self._pace = window.pace
        self._settling: set[str] = set()

    async def keep(self, views: Views, agreement: Agreement, *, met: bool) -> bool:
        """Do what the last look calls for; whether nodes spoke, so that another look is due.

        Args:
            views: the last look.
            agreement: what it gave.
            met: nodes met since then, so that what was unknown is no reason to speak.
        """
        following = slower(self._pace)
        if following and strained(agreement, self._clients.round_trip):
            await self._slow_down(following)
        if self._pace != CALM or met:
            return False
        await self._settle(ready_to_settle(views, agreement))
        if named := [name for name in speakers(views, agreement) if self._may_set(name, "cluster-ping-interval")]:
            await self._set(named, "cluster-ping-interval", BRISK.ping)
            await anyio.sleep(SPEAK_SECONDS)
            await self._set(named, "cluster-ping-interval", CALM.ping)
        return bool(named)

    async def _slow_down(self, pace: Pace) -> None:
        self._pace = pace
        trip = f"the last answers took {self._clients.round_trip:.2f} s"
        self._reporter.emit("note.made", message=f"the servers cannot keep up, {trip}: going on at a slower pace")
        for key, value in (("cluster-node-timeout", pace.timeout), ("cluster-ping-interval", pace.ping)):
            await self._set([name for name in self._clients.names if value and self._may_set(name, key)], key, value)

    async def _settle(self, ready: Sequence[str]) -> None:
        """Lower the timeout of these alone: who says ok again after its majority was missing waits that long first."""
        key = "cluster-node-timeout"
        named = {name for name in ready if self._may_set(name, key)}
        # Not lower than what the servers can keep: they must not flag each other meanwhile.
        low = max(BRISK.timeout, int(10_000 * self._clients.round_trip))
        await self._set(self._settling - named, key, CALM.timeout)
        await self._set(named, key, min(low, CALM.timeout))
        self._settling = named

    def _may_set(self, name: str, key: str) -> bool:
        return key in self._window.opened and key in self._window.closed[name]

    async def _set(self, names: Iterable[str], key: str, value: int) -> None:
        commands = {name: [("CONFIG", "SET", key, str(value))] for name in names}
        if commands:
            # Refused where CONFIG is: then the servers keep their own pace, as was said when the window was opened.
            await each(commands, lambda name: self._clients.run(name, *commands[name]))


async def restore(window: Window, clients: Clients, reporter: Reporter) -> None:
    """Put the configured values back where they differ, read them again, and insist.

    Raises:
        NodeFailed: the nodes that do not have their configured values.
    """
    if faults := await _restore_whatever(window, clients, reporter, patient=True):
        raise NodeFailed(
            f"formation settings were not restored on {listing(list(faults))}",
            code="settings-not-restored",
            hint="run the same command again: it puts the configured values back",
            nodes=faults,
        )


async def _open(window: Window, clients: Clients, reporter: Reporter) -> None:
    values = await _read(clients, window.opened)
    if refused := [name for name, found in values.items() if found is None]:
        reporter.warn(f"CONFIG is not permitted on {listing(refused)}: forming at the servers' own pace")
    commands = {
        name: [("CONFIG", "SET", key, window.opened[key]) for key in found if key in window.closed[name]]
        for name, found in values.items()
        if found
    }
    await clients.run_checked({name: list_ for name, list_ in commands.items() if list_}, patient=True)


async def _restore_whatever(window: Window, clients: Clients, reporter: Reporter, *, patient: bool) -> dict[str, str]:
    return await to_the_end(lambda: _restore_in_time(window, clients, reporter, patient=patient))


async def _restore_in_time(window: Window, clients: Clients, reporter: Reporter, *, patient: bool) -> dict[str, str]:
    # Where the body has failed nothing may keep this from being done.
    tell = reporter.emit if patient else reporter.mention
    faults = dict.fromkeys(clients.names, f"no answer within {RESTORE_SECONDS:g} s")
    with anyio.move_on_after(RESTORE_SECONDS):
        # Servers that have just formed a large cluster may be late.
        busy = True
        while busy:
            faults, busy = await _restore(window, clients, tell)
            busy = busy and patient
    return faults


async def _restore(window: Window, clients: Clients, tell: Callable[..., None]) -> tuple[dict[str, str], bool]:
    """What is still wrong by node, and whether a node was too busy to answer."""
    wrong, busy = await _differing(window, clients)
    if commands := {name: _settings(found) for name, found in wrong.items() if found}:
        await each(commands, lambda name: clients.run(name, *commands[name]))
        tell("settings.restored", nodes=len(commands))
        wrong, busy = await _differing(window, clients)
    return {name: _words(found) for name, found in wrong.items() if found is None or found}, busy


def _settings(values: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [("CONFIG", "SET", key, value) for key, value in values.items()]


def _words(found: Mapping[str, str] | None) -> str:
    return "cannot be asked" if found is None else ", ".join(f"{key} is not {value}" for key, value in found.items())


async def _differing(window: Window, clients: Clients) -> tuple[dict[str, dict[str, str] | None], bool]:
    """By node: the configured values that it does not have now, None if it cannot be asked; and whether one is busy."""
    results, errors = await each(clients.names, lambda name: _values(name, clients, window.opened))
    differing: dict[str, dict[str, str] | None] = dict.fromkeys(errors)
    for name, values in results.items():
        expected = window.closed[name].items()
        differing[name] = {key: value for key, value in expected if (values or {}).get(key, value) != value}
    return differing, any(error.code == "no-answer" for error in errors.values())


async def _read(clients: Clients, keys: Iterable[str]) -> dict[str, dict[str, str] | None]:
    """By node: its values of the settings that it knows; None where CONFIG is refused, none where it does not answer.

    Raises:
        NodeFailed: a node that cannot be reached.
    """
    results, errors = await each(clients.names, lambda name: _values(name, clients, keys))
    if gone := {name: error for name, error in errors.items() if error.code != "no-answer"}:
        raise several_failed({name: said(name, error) for name, error in gone.items()}, next(iter(gone.values())).code)
    return {name: results.get(name, {}) for name in clients.names}


async def _values(name: str, clients: Clients, keys: Iterable[str]) -> dict[str, str] | None:
    answers = await clients.run(name, *(("CONFIG", "GET", key) for key in keys))
    if any(isinstance(answer, ServerError) for answer in answers):
        return None
    # A setting that the server does not know gives an empty list.
    return {answer[0]: answer[1] for answer in answers if answer}
