"""What a client has to be told to use a cluster: addresses, an address map, the login, and whom to trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bootstrap.errors import UsageError
from bootstrap.planning.addressing import Address, Audience, NodeAddresses
from bootstrap.planning.plan import Plan
from bootstrap.planning.spec import DEFAULT_USER

Remap = Mapping[Address, Address]
"""Announced address -> the one that works."""

FIRST_CONTACTS = 3
"""How many addresses a client is given: it learns the others from any of them, and one node may be down."""


class Addressed(Protocol):
    """A node, planned or running."""

    @property
    def addresses(self) -> NodeAddresses:
        """Where it is reached."""


class Reachable(Protocol):
    """A cluster whose nodes and files are known: a `Status`, or what the operations work on."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def nodes(self) -> Sequence[Addressed]:
        """By index."""

    @property
    def user(self) -> str | None:
        """Whom clients log in as, None where there is no login."""

    @property
    def password_file(self) -> str:
        """Where the user's password is kept, "" if nowhere."""

    @property
    def tls(self) -> bool:
        """Connections are encrypted."""

    @property
    def ca_file(self) -> str:
        """Where the certificates to trust are kept, "" if nowhere."""


@dataclass(frozen=True, slots=True)
class Contact:
    """What a client has to be told.

    Args:
        addresses: some nodes, at least one.
        remap: announced address -> the one to go to instead; empty where what is announced works.
        user: whom to log in as, None for no login.
        password_file: its first line is the user's password; where it is "", programs take the password from the
            variable VALKEY_PASSWORD. The password itself is never part of a snippet.
        tls: connections are encrypted.
        ca_file: certificates of the authorities to trust, PEM; "" trusts the system's. None is a file that is not made
            yet: programs take its name from the variable VALKEY_CA_FILE.
        elsewhere: for programs that do not see the files of this machine.
    """

    addresses: tuple[Address, ...]
    remap: Remap = field(default_factory=dict)
    user: str | None = None
    password_file: str = ""
    tls: bool = False
    ca_file: str | None = ""
    elsewhere: bool = False

    @property
    def named_user(self) -> str:
        """The user, where it has to be named."""
        return self.user if self.user and self.user != DEFAULT_USER else ""

    @property
    def own_authority(self) -> bool:
        """Whether the authorities to trust are others than the system's."""
        return self.tls and self.ca_file != ""

    @property
    def files(self) -> tuple[str, ...]:
        """The files that a program reads by their names here."""
        known = (self.password_file if self.user else "", self.ca_file if self.tls else "")
        return tuple(file for file in known if file)


def contact_of(source: Plan | Reachable, audience: Audience = "host", remap: Remap | None = None) -> Contact:
    """How a cluster is used, planned or running.

    Args:
        source: the cluster.
        audience: who uses it: programs on this machine (``host``), or beside the servers (``network``).
        remap: announced address -> the one that was seen to work; None takes what follows from the addresses.

    Raises:
        UsageError: the nodes have no address for that audience.
    """
    found = [node.addresses.of(audience) for node in source.nodes]
    if None in found:
        raise UsageError(
            f'"{source.name}" has no addresses for clients on the {audience}',
            code="no-such-audience",
            hint="ask for another audience, or create it with --audience both",
        )
    addresses = [address for address in found if address is not None]
    if remap is None:
        remap = _remap(source.nodes) if audience == "host" else {}
    elif remap:
        addresses = list(remap.values())
    first, elsewhere = tuple(addresses[:FIRST_CONTACTS]), audience == "network"
    if isinstance(source, Plan):
        # Its files are made with the cluster.
        return Contact(first, remap, source.spec.user, "", source.spec.tls, None, elsewhere)
    return Contact(first, remap, source.user, source.password_file, source.tls, source.ca_file, elsewhere)


def _remap(nodes: Sequence[Addressed]) -> Remap:
    """For clients on this machine, where they do not get through to what is announced."""
    pairs = [(node.addresses.announced, node.addresses.host) for node in nodes if not node.addresses.routed]
    return {announced: host for announced, host in pairs if announced is not None}
