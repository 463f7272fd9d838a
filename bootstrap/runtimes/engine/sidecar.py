"""Dialling from inside a container's network by a container beside it: where its network cannot be entered from here.

The image may hold nothing but a server, so that is what dials: told to replicate from the address, and to log in as
somebody who does not exist, it connects, says what came of it in its log, and gets no further. Nothing is left at the
target but a failed login.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import docker
from docker.errors import NotFound

from bootstrap.concurrency import in_thread
from bootstrap.judging.evidence import Contact, Outcome
from bootstrap.runtimes.base import Ask
from bootstrap.runtimes.engine.failures import engine_errors

PROBE = "valkey-bootstrap.probe"
"""The label of such containers: its value is the node in whose place they dial."""

START_SECONDS = 5.0
"""How long the engine may take to start a container, beside the dial itself."""

_REPLY = re.compile(r"Error reply to PING from (?:primary|master): '(?P<said>-[^']*)'", re.IGNORECASE)

_SIGNS: tuple[tuple[str, Outcome], ...] = (
    # What servers write (`syncWithPrimary`, `connectWithPrimary` in replication.c), the telling ones first.
    ("connection refused", "refused"),
    ("no route to host", "unreachable"),
    ("network is unreachable", "unreachable"),
    ("host is unreachable", "unreachable"),
    ("name or service not known", "unresolvable"),
    ("temporary failure in name resolution", "unresolvable"),
    ("name does not resolve", "unresolvable"),
    ("no address associated", "unresolvable"),
    # What a name that leads nowhere gives: an error number that was never set.
    ("unable to connect to", "unresolvable"),
    ("connection timed out", "silent"),
    ("timeout connecting to the", "silent"),
    ("replied to ping", "open"),
    ("error reply to ping", "open"),
    # Connected, and hung up on: a cluster bus.
    ("failed to read response", "open"),
    ("i/o error reading", "open"),
)


class SidecarVantage:
    """See `bootstrap.runtimes.base.Vantage`.

    Args:
        name: the place, for people.
        node: the node whose place it is.
        api: the engine.
        find: gives the node's container, as the engine inspects it; None where it does not run.
    """

    beside = True
    slow = True

    def __init__(
        self,
        name: str,
        node: str,
        api: Callable[[], docker.APIClient],
        find: Callable[[], Mapping[str, Any] | None],
    ) -> None:
        self.name = name
        self.node = node
        self._api = api
        self._find = find

    async def dial(self, host: str, port: int, *, timeout: float, ask: Ask = None) -> Contact:
        """See `Vantage.dial`; an id is never said, since the server that dials does not ask for it."""
        return await in_thread(self._dial, host, port, timeout, ask is not None)

    def _dial(self, host: str, port: int, timeout: float, ask: bool) -> Contact:
        api = self._api()
        with engine_errors(f"dial {host}:{port} beside {self.node}"):
            beside = self._find()
            if beside is None:
                return Contact("unreachable")
            made = api.create_container(
                image=beside["Image"],
                entrypoint=beside["Config"]["Entrypoint"],
                command=_arguments(host, port, timeout),
                user=beside["Config"]["User"] or None,
                labels={PROBE: self.node},
                host_config=api.create_host_config(
                    network_mode=f"container:{beside['Id']}", cap_drop=["ALL"], security_opt=["no-new-privileges"]
                ),
            )
            try:
                api.start(made["Id"])
                contact = _await_sign(api, made["Id"], timeout)
            finally:
                with suppress(NotFound):
                    api.remove_container(made["Id"], force=True, v=True)
        return contact if ask else Contact(contact.outcome)


def _arguments(host: str, port: int, timeout: float) -> list[str]:
    # `--replicaof` first sets the address; the login makes sure that no data is ever sent.
    settings = {
        # A server has to listen somewhere, or it ends.
        "port": "0",
        "unixsocket": "/tmp/probe.sock",  # noqa: S108 - a container's own
        "save": "",
        "appendonly": "no",
        "dir": "/tmp",  # noqa: S108 - a container's own
        "repl-timeout": str(max(1, round(timeout))),
        "masteruser": PROBE,
        "masterauth": "none",
        "loglevel": "notice",
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    return [*words, "--replicaof", host, str(port)]


def _await_sign(api: docker.APIClient, container: str, timeout: float) -> Contact:
    end = time.monotonic() + timeout + START_SECONDS
    while time.monotonic() < end:
        log = api.logs(container).decode(errors="replace")
        if (contact := read_sign(log)) is not None:
            return contact
        time.sleep(0.05)
    return Contact("silent")


def read_sign(log: str) -> Contact | None:
    """What the log of the server that dials says of it; None as long as it says nothing."""
    lowered = log.lower()
    if reply := _REPLY.search(log):
        return Contact("open", reply["said"])
    found = next((outcome for sign, outcome in _SIGNS if sign in lowered), None)
    return None if found is None else Contact(found)
