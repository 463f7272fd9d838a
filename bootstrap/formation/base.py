"""The seam to the servers: how a node is asked, whoever does the asking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from bootstrap.errors import NodeFailed
from bootstrap.judging.views import (
    NodeView,
    Silent,
    SilentCode,
    View,
    flavor_of,
    make_view,
    parse_info,
    version_of,
)
from bootstrap.planning.addressing import Address

if TYPE_CHECKING:
    import ssl

Command = tuple[str, ...]

RawCommand = Sequence[str | bytes]
"""A command whose words may be binary, as keys are."""


@dataclass(frozen=True, slots=True)
class ServerError:
    """An error reply, as a value: a server's refusal is an answer, not an exception."""

    text: str

    def __str__(self) -> str:
        return self.text


Reply = Any
"""A decoded reply: text, number, None, a list of replies, or a `ServerError`."""


class Unreachable(NodeFailed):
    """A node could not be asked: no connection, a lost one, a refused login, no answer in time."""

    default_code = "unreachable"

    def of(self, name: str) -> Unreachable:
        """The same, with the name of the node; what it says by itself is the address."""
        message = self.message if self.message.startswith(name) else f"{name} at {self.message}"
        return Unreachable(message, code=self.code, hint=self.hint, nodes={name: self.message})


@dataclass(frozen=True, slots=True)
class Encryption:
    """How connections are encrypted.

    Args:
        ca: the certificates of the authorities that are trusted, PEM; "" trusts those of the system.
        certificate: the path of a certificate to show, "" for none.
        key: the path of its key.
        ca_file: where `ca` was read from, "" if nowhere.
    """

    ca: str = field(default="", repr=False)
    certificate: str = ""
    key: str = ""
    ca_file: str = ""

    def context(self) -> ssl.SSLContext:
        """The same for Python's own connections."""
        import ssl

        made = ssl.create_default_context(cadata=self.ca or None)
        if self.certificate:
            made.load_cert_chain(self.certificate, self.key or None)
        return made


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to log in; never part of a plan, an event, a record or a message.

    Args:
        password: the secret, None for no login.
        username: whose it is, None for the default user.
        encryption: None for connections in plain text.
        password_file: where the password was read from, "" if nowhere.
    """

    password: str | None = field(default=None, repr=False)
    username: str | None = None
    encryption: Encryption | None = None
    password_file: str = ""


class NodeClient(Protocol):
    """A connection to one node; it connects when it is first used, and again after it was lost."""

    async def run(self, *commands: Command) -> Sequence[Reply]:
        """Send commands in one round trip and return their replies in order.

        Raises:
            Unreachable: no answer, with the reason and as code ``unreachable``, ``no-answer``, ``login-failed``,
                ``protected`` (clients of other machines are turned away), ``full`` (so are all further clients),
                ``tls`` (one side encrypts, the other does not) or ``certificate`` (the server's is not trusted).
        """

    async def run_raw(self, *commands: RawCommand, within: float | None = None) -> Sequence[Reply]:
        """The same byte for byte: text in replies is bytes, as the server sent it; error replies are as above.

        Args:
            commands: in order.
            within: seconds that all replies together may take, None for as long as usual.

        Raises:
            Unreachable: as above.
        """

    async def look(self) -> View:
        """Ask for everything a `NodeView` holds; a node that cannot be asked gives `Silent`, nothing is raised."""

    async def aclose(self) -> None:
        """Close the connection."""


_SILENT_CODES: Mapping[str, SilentCode] = {
    "no-answer": "no-answer",
    "login-failed": "login",
    "protected": "protected",
    "full": "full",
    "tls": "tls",
    "certificate": "certificate",
}


def silence(error: Unreachable) -> Silent:
    """What a node is that could not be asked."""
    return Silent(error.message.partition(" ")[2], _SILENT_CODES.get(error.code, "unreachable"))


Connect = Callable[[Address], Awaitable[NodeClient]]

Connector = Callable[[Credentials], Connect]
"""How nodes are connected to, once it is known who logs in."""

LOOK: tuple[Command, ...] = (
    # One section each: INFO of several sections came with 7.0, and older servers must be recognised, too.
    ("INFO", "server"),
    ("INFO", "replication"),
    ("INFO", "keyspace"),
    ("INFO", "cluster"),
    ("CLUSTER", "INFO"),
    ("CLUSTER", "NODES"),
    ("CLUSTER", "SLOTS"),
    ("FUNCTION", "LIST"),
)


def read_look(replies: Sequence[Reply]) -> View:
    """Make a view of the replies to `LOOK`; replies of an unknown form give `Silent` with the offending part."""
    *sections, cluster, nodes, slots, functions = replies
    for reply in sections:
        if isinstance(reply, ServerError):
            return _refused(reply)
    info: Mapping[str, str] = {key: value for text in sections for key, value in parse_info(str(text)).items()}
    if info.get("cluster_enabled") != "1":
        return NodeView(id="", flavor=flavor_of(info), version=version_of(info), cluster_mode=False)
    for reply in (cluster, nodes, slots):
        if isinstance(reply, ServerError):
            return _refused(reply)
    try:
        return make_view(info, parse_info(str(cluster)), str(nodes), slots, functions)
    except ValueError as error:
        return Silent(f"its replies cannot be read: {error}", "garbage")


def _refused(error: ServerError) -> Silent:
    if error.text.startswith(("NOAUTH", "WRONGPASS")):
        return Silent(f"refuses the login: {error.text}", "login")
    if error.text.startswith("NOPERM"):
        return Silent(f"refuses a command: {error.text}", "forbidden")
    return Silent(f"answers {error.text}", "busy")
