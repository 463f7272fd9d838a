"""What protects a cluster: its login and its encryption, settled, kept, and given to the servers as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bootstrap.errors import UsageError
from bootstrap.formation.base import Credentials, Encryption
from bootstrap.operations.login import Login, ServerLogin, settle
from bootstrap.planning.plan import CA_FILE, CERTIFICATE_FILE, CONFIG_FILE, KEY_FILE, PlannedNode, render_config
from bootstrap.planning.spec import ClusterSpec
from bootstrap.planning.text import listing
from bootstrap.runtimes.base import Record, Secrets

if TYPE_CHECKING:
    from bootstrap.operations.certificates import Pair

AUTHORITY_KEY_FILE = "ca.key"


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates that somebody else made, PEM.

    Args:
        ca: those of the authorities that clients and nodes trust.
        certificate: the one that all servers show; it must be for every address that clients and nodes are told.
        key: its key.
    """

    ca: str = field(repr=False)
    certificate: str = field(repr=False)
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The encryption of a cluster of ours.

    Args:
        ca: the certificates that are trusted, PEM.
        authority: signs the nodes' certificates; None where all nodes show one that was given.
        given: that one.
        issued: nodes' certificates that were made before, by node.
        shown: the one that all nodes have shown so far, None if there was none.
    """

    ca: bytes = field(repr=False)
    authority: Pair | None = field(default=None, repr=False)
    given: Pair | None = field(default=None, repr=False)
    issued: dict[str, Pair] = field(default_factory=dict, repr=False)
    shown: Pair | None = field(default=None, repr=False)

    @property
    def encryption(self) -> Encryption:
        """How clients connect."""
        return Encryption(self.ca.decode())

    @property
    def kept(self) -> Mapping[str, bytes]:
        """What later commands need, as secret files."""
        if self.authority is not None:
            made = {f"{node}.crt": pair.certificate for node, pair in self.issued.items()}
            keys = {f"{node}.key": pair.key for node, pair in self.issued.items()}
            return {CA_FILE: self.ca, AUTHORITY_KEY_FILE: self.authority.key, **made, **keys}
        assert self.given is not None, "one of both"
        return {CA_FILE: self.ca, CERTIFICATE_FILE: self.given.certificate, KEY_FILE: self.given.key}

    def prepare(self, nodes: Sequence[PlannedNode]) -> tuple[str, ...]:
        """Make the certificates that are missing, end soon, or are for other addresses; the nodes that got one.

        Raises:
            UsageError: the given certificate is not for all addresses.
        """
        from bootstrap.operations import certificates

        if self.given is not None:
            _refuse_missing(certificates.hosts_of(self.given.certificate), nodes)
            return () if self.given == self.shown else tuple(node.name for node in nodes)
        assert self.authority is not None, "one of both"
        renewed = []
        for node in nodes:
            old, hosts = self.issued.get(node.name), _hosts(node)
            fresh = old is not None and certificates.lasts(old.certificate) > certificates.RENEW
            if old is not None and fresh and hosts <= certificates.hosts_of(old.certificate):
                continue
            self.issued[node.name] = certificates.make_certificate(self.authority, node.name, sorted(hosts))
            renewed.append(node.name)
        return tuple(renewed)

    def files(self, node: str) -> Mapping[str, bytes]:
        """What stands beside a node's configuration."""
        pair = self.given or self.issued[node]
        return {CA_FILE: self.ca, CERTIFICATE_FILE: pair.certificate, KEY_FILE: pair.key}


@dataclass(frozen=True, slots=True)
class Protection:
    """Both, where there is one."""

    login: ServerLogin | None = None
    tls: ServerTls | None = None

    @property
    def credentials(self) -> Credentials:
        """How clients connect."""
        login = self.login.credentials if self.login else Credentials()
        return Credentials(login.password, login.username, self.tls.encryption if self.tls else None)

    @property
    def kept(self) -> Mapping[str, bytes]:
        """What later commands need, as secret files."""
        return {**(self.login.kept if self.login else {}), **(self.tls.kept if self.tls else {})}

    def files(self, node: PlannedNode) -> Mapping[str, bytes]:
        """A server's configuration and what it refers to."""
        return {
            CONFIG_FILE: render_config(node, self.login.lines if self.login else ()),
            **(self.login.server_files if self.login else {}),
            **(self.tls.files(node.name) if self.tls else {}),
        }


def protect(
    spec: ClusterSpec, login: Login, given: Certificates | None, record: Record | None, kept: Secrets
) -> Protection:
    """What protects a cluster that is to be made, or one that exists.

    Raises:
        UsageError: a password or an authority is needed and not known.
        Conflict: the cluster exists with others.
    """
    tls = spec.tls if record is None else bool(record.spec.get("tls"))
    return Protection(settle(spec, login, record, kept), _encrypt(spec, given, record, kept) if tls else None)


def _encrypt(spec: ClusterSpec, given: Certificates | None, record: Record | None, kept: Secrets) -> ServerTls:
    from bootstrap.operations.certificates import Pair, make_authority

    files = kept.files
    shown = Pair(files[CERTIFICATE_FILE], files[KEY_FILE]) if CERTIFICATE_FILE in files and KEY_FILE in files else None
    if given is not None:
        pair = Pair(given.certificate.encode(), given.key.encode())
        return ServerTls(given.ca.encode(), given=pair, shown=shown)
    if CA_FILE in files and shown is not None:
        return ServerTls(files[CA_FILE], given=shown, shown=shown)
    if CA_FILE in files and AUTHORITY_KEY_FILE in files:
        names = [name.removesuffix(".crt") for name in files if name.endswith(".crt") and name != CA_FILE]
        issued = {name: Pair(files[f"{name}.crt"], files[f"{name}.key"]) for name in names if f"{name}.key" in files}
        return ServerTls(files[CA_FILE], Pair(files[CA_FILE], files[AUTHORITY_KEY_FILE]), issued=issued)
    if record is not None:
        raise UsageError(
            f'the cluster "{spec.name}" has certificates, and the authority that signed them is not kept here',
            code="authority-missing",
            hint="work on it as the user who made it, or give its certificates: --tls-ca, --tls-cert, --tls-key",
        )
    authority = make_authority(spec.name)
    return ServerTls(authority.certificate, authority)


def _hosts(node: PlannedNode) -> frozenset[str]:
    """Names and addresses by which a node is reached."""
    where = node.addresses
    told = [each.host for each in (where.host, where.network, where.control, where.meet, where.announced) if each]
    inside = [node.name, node.container.address] if node.container else []
    return frozenset([*told, *inside, "localhost", "127.0.0.1", "::1"])


def _refuse_missing(covered: frozenset[str], nodes: Sequence[PlannedNode]) -> None:
    domains = {name.removeprefix("*") for name in covered if name.startswith("*.")}
    told = {each.host for node in nodes for each in (node.addresses.control, node.addresses.announced) if each}
    missing = sorted(
        host for host in told if host not in covered and host[host.find(".") :] not in domains
    )  # fmt: skip
    if missing:
        raise UsageError(
            f"the certificate is not for {listing(missing, 4)}, where clients are sent",
            code="certificate-names",
            hint="make it for these, too (subjectAltName), or leave it out and let --tls make certificates",
        )
