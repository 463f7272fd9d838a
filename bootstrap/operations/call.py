"""One command on many nodes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bootstrap.concurrency import each
from bootstrap.errors import UsageError
from bootstrap.formation.base import Command, Reply, ServerError
from bootstrap.formation.clients import open_clients, said
from bootstrap.judging.views import Views
from bootstrap.operations.deployment import Deployment, Node, resolve_node
from bootstrap.operations.status import make_status
from bootstrap.planning.plan import Role

Which = Literal["all", "primaries", "replicas"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a node said.

    Args:
        node: its name.
        role: what it called itself just before; what others call it where it is silent; None if nobody knows.
        reply: text, a number, None, or a list of these; None as well where there is an error.
        error: why there is no reply: what the server refused, or why it could not be asked; "" where there is one.
    """

    node: str
    role: Role | None
    reply: Reply
    error: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"name": self.node, "role": self.role, "reply": self.reply, "error": self.error or None}


async def call(deployment: Deployment, command: Command, which: Which | Sequence[str | int] = "all") -> list[Answer]:
    """Run a command on nodes side by side; refusals and nodes that cannot be asked are among the answers.

    Args:
        deployment: the cluster.
        command: its words.
        which: by role, or nodes as `resolve_node` takes them.

    Raises:
        UsageError: no command, or no such node.
    """
    if not command:
        raise UsageError("there is no command to call", hint="put it at the end: `valkey-bootstrap call -- PING`")
    async with open_clients(deployment.access.connect, deployment.addresses) as clients:
        views = await clients.look()
        roles = {node.name: node.role for node in make_status(deployment, views).nodes}
        chosen = [node.name for node in _chosen(deployment, which, roles, views)]
        replies, errors = await each(chosen, lambda name: clients.run(name, command))
    return [
        Answer(name, roles[name], None, said(name, errors[name]))
        if name in errors
        else _answer(name, roles, replies[name])
        for name in chosen
    ]


def _chosen(
    deployment: Deployment, which: Which | Sequence[str | int], roles: dict[str, Role | None], views: Views
) -> Sequence[Node]:
    if which == "all":
        return deployment.nodes
    if which in ("primaries", "replicas"):
        role = "primary" if which == "primaries" else "replica"
        return [node for node in deployment.nodes if roles[node.name] == role]
    ids = {name: getattr(view, "id", "") for name, view in views.items()}
    found = [resolve_node(ref, deployment.nodes, ids) for ref in which]
    return list(dict.fromkeys(found))


def _answer(name: str, roles: dict[str, Role | None], replies: Sequence[Reply]) -> Answer:
    reply = replies[0]
    if isinstance(reply, ServerError):
        return Answer(name, roles[name], None, reply.text)
    return Answer(name, roles[name], reply)
