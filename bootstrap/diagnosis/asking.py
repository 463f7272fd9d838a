"""What each node says of itself beyond its view: settings, INFO, its bus links."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bootstrap.concurrency import each
from bootstrap.formation.base import Command, Reply, ServerError
from bootstrap.formation.clients import Clients
from bootstrap.judging.evidence import Testimony
from bootstrap.judging.views import parse_info

SETTINGS = (
    "bind",
    "cluster-announce-hostname",
    "cluster-announce-ip",
    "cluster-node-timeout",
    "cluster-ping-interval",
    "cluster-preferred-endpoint-type",
    "port",
    "repl-diskless-load",
    "repl-diskless-sync-delay",
)

SECRETS = ("requirepass", "masterauth")

_QUESTIONS: tuple[Command, ...] = (
    ("INFO",),
    ("CONFIG", "GET", *SETTINGS, *SECRETS),
    ("CLUSTER", "LINKS"),
)


async def hear(clients: Clients, names: Iterable[str]) -> dict[str, Testimony]:
    """Ask these nodes; those that cannot be asked are left out."""
    # Two secrets can be compared by their marks, and nothing else can be done with these.
    salt = secrets.token_bytes(16)

    async def one(name: str) -> Testimony:
        return read_testimony(await clients.run(name, *_QUESTIONS), salt)

    results, _ = await each(names, one)
    return results


def read_testimony(replies: Sequence[Reply], salt: bytes) -> Testimony:
    """Make testimony of the replies to the questions."""
    refused = {
        " ".join(command[:2]): reply.text
        for command, reply in zip(_QUESTIONS, replies, strict=True)
        if isinstance(reply, ServerError)
    }
    info, config, links = (None if isinstance(reply, ServerError) else reply for reply in replies)
    settings = _table(config)
    return Testimony(
        info=parse_info(str(info or "")),
        settings={key: value for key, value in settings.items() if key not in SECRETS},
        secrets={key: _mark(settings[key], salt) for key in SECRETS if key in settings},
        links=None if links is None else _links(links),
        refused=refused,
    )


def _mark(secret: str, salt: bytes) -> str:
    return hashlib.sha256(salt + secret.encode()).hexdigest() if secret else ""


def _table(reply: Any) -> dict[str, str]:
    items = [str(item) for item in reply] if isinstance(reply, list) else []
    return dict(zip(items[::2], items[1::2], strict=False))


def _links(reply: Any) -> Mapping[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for link in reply if isinstance(reply, list) else []:
        table = _table(link)
        if "node" in table:
            found.setdefault(table["node"], set()).add(table.get("direction", ""))
    return {node: frozenset(directions) for node, directions in found.items()}
