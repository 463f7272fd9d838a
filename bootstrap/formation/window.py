"""The fast window: settings that are low while a cluster forms, and restored and verified afterwards.

At their defaults the servers exchange slot maps by one random ping a second, and replicas start to synchronise after
five; a window of a second or two with small values takes that wait away (`clusterCron`, `replicationCron`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from bootstrap.concurrency import each
from bootstrap.errors import NodeFailed
from bootstrap.events import Reporter
from bootstrap.formation.base import ServerError
from bootstrap.formation.clients import Clients
from bootstrap.planning.plan import PlannedNode
from bootstrap.planning.text import listing

RESTORE_SECONDS = 10.0

DEFAULTS: Mapping[str, str] = {
    # The servers' own values for what a configuration does not mention. 0 is "node timeout / 2".
    "cluster-node-timeout": "15000",
    "cluster-ping-interval": "0",
    "repl-diskless-sync-delay": "5",
    "repl-ping-replica-period": "10",
}


def window_for(nodes: int, *, ours: bool) -> Mapping[str, str]:
    """The settings to open with.

    Timeouts that are too low for the number of nodes raise fail flags and make formation slower, so they grow with it.

    Args:
        nodes: how many nodes form.
        ours: the servers' configuration is known; on servers of others only the ping interval is touched, a hidden
            setting whose default is known, so that even after a SIGKILL the next run can tell and restore it.
    """
    if nodes <= 12:
        timeout, ping = 500, 100
    elif nodes <= 48:
        timeout, ping = 1000, 100
    elif nodes <= 100:
        timeout, ping = 2000, 250
    else:
        timeout, ping = 5000, 1000
    if not ours:
        return {"cluster-ping-interval": str(ping)}
    return {
        "cluster-node-timeout": str(timeout),
        "cluster-ping-interval": str(ping),
        "repl-diskless-sync-delay": "0",
        # A replica stays out of CLUSTER SLOTS until its offset is not 0; the primary's ping moves it without a write.
        "repl-ping-replica-period": "1",
    }


@dataclass(frozen=True, slots=True)
class Window:
    """Which settings are opened, and what each node has outside the window."""

    opened: Mapping[str, str]
    closed: Mapping[str, Mapping[str, str]]


def own_window(target: Sequence[PlannedNode]) -> Window:
    """The window for nodes whose configuration is known: never slower than what they are configured with."""
    opened = dict(window_for(len(target), ours=True))
    closed = {node.name: {key: node.setting(key, DEFAULTS[key]) for key in opened} for node in target}
    slowest = min(int(values["cluster-node-timeout"]) for values in closed.values())
    opened["cluster-node-timeout"] = str(min(int(opened["cluster-node-timeout"]), slowest))
    return Window(opened, closed)


async def foreign_window(clients: Clients) -> Window:
    """The window for servers of others: nodes where the setting has a value of its owner's are left alone."""
    opened = window_for(len(clients.names), ours=False)
    values = await _read(clients, opened)
    # A low value can only be one that an interrupted run left behind.
    low = {window_for(count, ours=False)[key] for count in (1, 100, 101) for key in opened}
    closed = {
        name: {key: DEFAULTS[key] for key, value in (found or {}).items() if value == DEFAULTS[key] or value in low}
        for name, found in values.items()
    }
    return Window(opened, closed)


@asynccontextmanager
async def fast_window(window: Window, clients: Clients, reporter: Reporter) -> AsyncIterator[None]:
    """Open the window for the body, and restore and verify it afterwards, whatever happened.

    Raises:
        NodeFailed: a node does not have its configured values afterwards (only where the body itself did not fail).
    """
    try:
        await _open(window, clients, reporter)
        yield
    except BaseException:
        for node, fault in (await _restore_in_time(window, clients, reporter)).items():
            reporter.warn(f"{node} keeps formation settings: {fault}")
        raise
    await restore(window, clients, reporter)


async def restore(window: Window, clients: Clients, reporter: Reporter) -> None:
    """Put the configured values back where they differ, read them again, and insist.

    Raises:
        NodeFailed: the nodes that do not have their configured values.
    """
    if faults := await _restore_in_time(window, clients, reporter):
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
    await clients.run_checked({name: list_ for name, list_ in commands.items() if list_})


async def _restore_in_time(window: Window, clients: Clients, reporter: Reporter) -> dict[str, str]:
    with anyio.move_on_after(RESTORE_SECONDS, shield=True):
        return await _restore(window, clients, reporter)
    return dict.fromkeys(clients.names, f"no answer within {RESTORE_SECONDS:g} s")


async def _restore(window: Window, clients: Clients, reporter: Reporter) -> dict[str, str]:
    wrong = await _differing(window, clients)
    if commands := {name: _settings(found) for name, found in wrong.items() if found}:
        await each(commands, lambda name: clients.run(name, *commands[name]))
        reporter.emit("settings.restored", nodes=len(commands))
        wrong = await _differing(window, clients)
    return {name: _words(found) for name, found in wrong.items() if found is None or found}


def _settings(values: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [("CONFIG", "SET", key, value) for key, value in values.items()]


def _words(found: Mapping[str, str] | None) -> str:
    return "cannot be asked" if found is None else ", ".join(f"{key} is not {value}" for key, value in found.items())


async def _differing(window: Window, clients: Clients) -> dict[str, dict[str, str] | None]:
    """By node: the configured values that it does not have now; None for a node that cannot be asked."""
    results, errors = await each(clients.names, lambda name: _values(name, clients, window.opened))
    differing: dict[str, dict[str, str] | None] = dict.fromkeys(errors)
    for name, values in results.items():
        expected = window.closed[name].items()
        differing[name] = {key: value for key, value in expected if (values or {}).get(key, value) != value}
    return differing


async def _read(clients: Clients, keys: Iterable[str]) -> dict[str, dict[str, str] | None]:
    """By node: its values of the settings that it knows; None where CONFIG is refused.

    Raises:
        NodeFailed: a node that cannot be asked.
    """
    results, errors = await each(clients.names, lambda name: _values(name, clients, keys))
    for error in errors.values():
        raise error
    return results


async def _values(name: str, clients: Clients, keys: Iterable[str]) -> dict[str, str] | None:
    answers = await clients.run(name, *(("CONFIG", "GET", key) for key in keys))
    if any(isinstance(answer, ServerError) for answer in answers):
        return None
    # A setting that the server does not know gives an empty list.
    return {answer[0]: answer[1] for answer in answers if answer}
