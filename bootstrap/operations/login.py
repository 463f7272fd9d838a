"""The login of a cluster: chosen, kept where only its user can read it, and given to the servers as files.

A specification names the user and never holds a secret. What the servers need goes into their configuration files,
which the runtimes make readable for the servers alone; what later commands need is kept by `Runtime.keep`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from bootstrap.errors import Conflict, Problem, SpecError, UsageError
from bootstrap.formation.base import Credentials, Encryption
from bootstrap.operations.deployment import Access, Deployment, deployment_of
from bootstrap.planning.plan import CA_FILE, ConfigLine
from bootstrap.planning.spec import DEFAULT_USER, ClusterSpec
from bootstrap.runtimes.base import Record, Runtime, Secrets

PASSWORD_FILE = "password"  # noqa: S105 -- a file's name
ACL_FILE = "users.acl"

PASSWORD_BYTES = 24
"""Of randomness in a generated password."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a cluster is protected with, beside its specification, which names the user.

    Args:
        password: the user's; None takes the one that is kept of a cluster that exists.
        generate: make one for a new cluster.
        acl: the text of an ACL file that every server loads; the user must be in it.
    """

    password: str | None = field(default=None, repr=False)
    generate: bool = False
    acl: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ServerLogin:
    """Who logs in to a cluster of ours: its user's clients, its nodes and this package.

    Args:
        password: the secret.
        user: whose it is.
        acl: the text of the ACL file that the servers load, None where their configuration says who may do what.
    """

    password: str = field(repr=False)
    user: str = DEFAULT_USER
    acl: str | None = field(default=None, repr=False)

    @property
    def credentials(self) -> Credentials:
        """How clients log in."""
        return Credentials(self.password, None if self.user == DEFAULT_USER else self.user)

    @property
    def kept(self) -> Mapping[str, bytes]:
        """What later commands need, as secret files."""
        return {PASSWORD_FILE: self.password.encode(), **self.server_files}

    @property
    def server_files(self) -> Mapping[str, bytes]:
        """Files beside a server's configuration."""
        return {} if self.acl is None else {ACL_FILE: self.acl.encode()}

    @property
    def lines(self) -> tuple[ConfigLine, ...]:
        """What a server's configuration says of it."""
        found: list[ConfigLine] = []
        if self.acl is not None:
            found.append(("aclfile", ACL_FILE))
        elif self.user == DEFAULT_USER:
            found.append(("requirepass", self.password))
        else:
            mark = hashlib.sha256(self.password.encode()).hexdigest()
            found += [
                ("user", DEFAULT_USER, "off", "resetpass"),
                ("user", self.user, "on", f"#{mark}", "~*", "&*", "+@all"),
            ]
        if self.user != DEFAULT_USER:
            found.append(("masteruser", self.user))
        return (*found, ("masterauth", self.password))


def with_user(spec: ClusterSpec, given: Login) -> ClusterSpec:
    """The specification with the user that a password or an ACL file asks for.

    Raises:
        SpecError: a password or an ACL file that servers cannot be given.
    """
    problems = []
    if given.generate and given.password is not None:
        problems.append(Problem("password", "one is given, and one is to be generated", "leave one of them out"))
    if given.password is not None and (not given.password or any(ord(char) < 32 for char in given.password)):
        problems.append(Problem("password", "it is empty or has control characters", "use a line of text"))
    if given.acl is not None and "\0" in given.acl:
        problems.append(Problem("acl", "it is not text", "give lines such as `user name on >password ~* &* +@all`"))
    if problems:
        raise SpecError(problems)
    protected = given.password is not None or given.generate or given.acl is not None
    return replace(spec, user=DEFAULT_USER) if protected and spec.user is None else spec


def settle(spec: ClusterSpec, given: Login, record: Record | None, kept: Secrets) -> ServerLogin | None:
    """The login of a cluster that is to be made, or of one that exists; None where everybody gets in.

    Args:
        spec: what is asked for, with its user.
        given: what is given.
        record: the cluster, if it exists.
        kept: what is kept of it.

    Raises:
        UsageError: a password is needed and not known.
        Conflict: the cluster exists with another one.
    """
    user = spec.user if record is None else record.spec.get("user")
    if user is None:
        return None
    known = {name: content.decode(errors="replace") for name, content in kept.files.items()}
    if record is not None:
        for what, name, asked in (
            ("password", PASSWORD_FILE, given.password),
            ("ACL file", ACL_FILE, given.acl),
        ):
            if asked is not None and known and known.get(name) != asked:
                raise Conflict(
                    f'the cluster "{spec.name}" exists and has another {what}',
                    code="login-differs",
                    hint=f"leave it out: what the cluster was made with is kept in {kept.folder or 'memory'}",
                )
    password = given.password or known.get(PASSWORD_FILE)
    acl = given.acl if given.acl is not None else known.get(ACL_FILE)
    if password is None and record is None and given.generate:
        password = secrets.token_urlsafe(PASSWORD_BYTES)
    if password is None:
        what = f"the user {user}" if record is None else f'the cluster "{spec.name}"'
        raise UsageError(
            f"{what} needs a password, and none is given" + (" or kept here" if record is not None else ""),
            code="password-missing",
            hint="give one with --password-file or VALKEY_BOOTSTRAP_PASSWORD"
            + (", or use --generate-password" if record is None else ""),
        )
    return ServerLogin(password, user, acl)


async def open_deployment(record: Record, runtime: Runtime, access: Access) -> Deployment:
    """The deployment of a recorded cluster, with the login and the trust that are given, or kept of it."""
    user, tls = record.spec.get("user"), bool(record.spec.get("tls"))
    if user is None and not tls:
        return deployment_of(record, runtime, access)
    login, kept = access.credentials, await runtime.kept(record.name)
    if user is not None and login.password is None and (password := kept.files.get(PASSWORD_FILE)) is not None:
        login = replace(login, password=password.decode(errors="replace"))
    if user not in (None, DEFAULT_USER) and login.username is None:
        login = replace(login, username=user)
    if tls and login.encryption is None:
        login = replace(login, encryption=Encryption(kept.files.get(CA_FILE, b"").decode(errors="replace")))
    deployment = deployment_of(record, runtime, access.with_login(login))
    return replace(
        deployment,
        user=user,
        password_file=_path(kept, PASSWORD_FILE),
        tls=tls,
        ca_file=_path(kept, CA_FILE),
    )


def _path(kept: Secrets, name: str) -> str:
    return f"{kept.folder}/{name}" if kept.folder and name in kept.files else ""
