"""Gives newcomers what a cluster has beside its keys: function libraries and users, neither of which gossip brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bootstrap.concurrency import each
from bootstrap.errors import NodeFailed
from bootstrap.events import Reporter
from bootstrap.formation.base import Command, Reply, ServerError
from bootstrap.formation.clients import Clients
from bootstrap.judging.views import seen
from bootstrap.planning.layout import Layout
from bootstrap.planning.text import listing


async def carry_over(clients: Clients, goal: Layout, reporter: Reporter) -> None:
    """Load the functions of the cluster on newcomers that are to lead, and set its users on all newcomers.

    Replicas get functions from their primary. Users are copied from one node to another as they are, passwords as
    their hashes.

    Args:
        clients: all members.
        goal: who is to lead.
        reporter: warned where a server does not let us see or set its users.

    Raises:
        NodeFailed: a newcomer refused a function library.
    """
    nodes = seen(await clients.look_patiently())
    newcomers = [name for name, view in nodes.items() if view.blank]
    source = next((name for name, view in nodes.items() if view.myself.slots), None)
    if not newcomers or source is None:
        return
    leading = {shard.primary for shard in goal.shards}
    libraries, users = await clients.run(source, ("FUNCTION", "LIST", "WITHCODE"), ("ACL", "LIST"))
    loads = [("FUNCTION", "LOAD", "REPLACE", code) for code in codes(libraries)]
    await clients.run_checked({name: loads for name in newcomers if name in leading and loads})
    if isinstance(users, ServerError):
        reporter.warn(f"users are not copied: {source} answers {users}")
        return
    refused = await _set_users(clients, newcomers, users)
    if refused:
        reporter.warn(f"users are not copied to {listing(list(refused))}: {next(iter(refused.values()))}")


async def _set_users(clients: Clients, newcomers: Sequence[str], users: Sequence[str]) -> Mapping[str, str]:
    """Those that refused, with what they said."""
    refused: dict[str, str] = {}

    async def one(name: str) -> None:
        (known,) = await clients.run(name, ("ACL", "LIST"))
        if isinstance(known, ServerError):
            refused[name] = str(known)
            return
        names = {line.split(" ", 2)[1] for line in known}
        commands = [user_command(line, known=line.split(" ", 2)[1] in names) for line in users if line not in known]
        for reply in await clients.run(name, *commands) if commands else ():
            if isinstance(reply, ServerError):
                refused[name] = str(reply)

    _, errors = await each(newcomers, one)
    if errors:
        raise next(iter(errors.values()))
    return refused


def codes(reply: Reply) -> list[str]:
    """The source code of the libraries in a reply to FUNCTION LIST WITHCODE.

    Raises:
        NodeFailed: a reply of another form, or a refusal.
    """
    if isinstance(reply, ServerError):
        raise NodeFailed(f"its functions cannot be copied: {reply}", code="refused")
    found = []
    for library in reply:
        table = dict(zip(library[::2], library[1::2], strict=True))
        found.append(str(table["library_code"]))
    return found


def user_command(line: str, *, known: bool) -> Command:
    """The command that makes a user what a line of ACL LIST says: ``user NAME RULE...``; selectors hold spaces.

    Args:
        line: the line.
        known: the server has a user of that name, who is something else.
    """
    _, name, rules = line.split(" ", 2)
    words: list[str] = []
    depth = 0
    for word in rules.split(" "):
        if depth:
            words[-1] += f" {word}"
        else:
            words.append(word)
        depth += word.startswith("(") - word.endswith(")")
    # Redis 7.0 gives whoever is reset a flag that new users do not have.
    return ("ACL", "SETUSER", name, *(["reset"] if known else []), *words)
