"""Flags shared by several verbs, and how flags, environment and a file become one specification."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from bootstrap.errors import Problem, SpecError, UsageError
from bootstrap.planning.spec import DEFAULT_IMAGE, ClusterSpec, RuntimeKind, parse_spec

if TYPE_CHECKING:
    from bootstrap.formation.base import Credentials
    from bootstrap.operations.login import Login
    from bootstrap.operations.protection import Certificates

F = TypeVar("F", bound=Callable[..., Any])
PREFIX = "VALKEY_BOOTSTRAP"

SPEC_FLAGS: Mapping[str, str] = {
    # Field of ClusterSpec -> its flag; everything else that names a field in a message goes through this table.
    "name": "--name",
    "nodes": "--nodes",
    "replicas": "--replicas",
    "extra_replica_of": "--extra-replica-of",
    "min_primaries": "--min-primaries",
    "runtime": "--runtime",
    "base_port": "--base-port",
    "server": "--server",
    "image": "--image",
    "pull": "--pull",
    "announce": "--announce",
    "announce_host": "--announce-host",
    "audience": "--audience",
    "publish": "--no-publish",
    "expose": "--publish",
    "insecure": "--insecure",
    "ephemeral": "--ephemeral",
    "memory": "--memory",
    "zones": "--zones",
    "user": "--user",
    "tls": "--tls",
    "settings": "--set",
    "password": "--password-file",
    "acl": "--acl-file",
    "state_root": "--state-root",
}


SPEC_FIELDS = frozenset(SPEC_FLAGS) - {"password", "acl"}


@dataclass(frozen=True, slots=True)
class Look:
    """How a verb shows what it does: result format, progress, colour, and how much of it.

    The state root, if a flag gave it, belongs into the commands that are printed to copy.
    """

    output: str = "text"
    progress: str = "auto"
    color: str = "auto"
    quiet: bool = False
    verbose: int = 0
    state_root: str | None = None

    @property
    def talks(self) -> bool:
        """Whether people want to be told on stderr what was done."""
        return not self.quiet and self.progress not in ("json", "quiet")


def environment(field: str) -> str:
    """The environment variable of a field."""
    return f"{PREFIX}_{field.upper()}"


def _option(*names: str, field: str = "", **kwargs: Any) -> Callable[[F], F]:
    if field:
        kwargs |= {"envvar": environment(field), "show_envvar": False}
    return click.option(*names, **kwargs)


def apply(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, shown in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def spec_options(*, name: str = "valkey", base_port: str = "6379 or the next free block") -> Callable[[F], F]:
    """The flags of a specification; values stay text here, `read_spec` judges them all at once.

    Args:
        name: what the help says of the default name.
        base_port: the same of the first port.
    """
    return apply(
        _option("--nodes", field="nodes", metavar="N", help="All nodes, replicas included.  [default: 6]"),
        _option("--replicas", field="replicas", metavar="R", help="Replicas of each primary.  [default: 1]"),
        _option("--name", field="name", metavar="NAME", help=f"The cluster's name.  [default: {name}]"),
        _option(
            "--base-port", field="base_port", metavar="PORT|auto",
            help="Data port of the first node, strictly; bus ports are 10000 above. `auto` takes a random free block."
            f"  [default: {base_port}]",
        ),
        _option("--zones", field="zones", metavar="A,B,C", help="Simulate availability zones, dealt out in turn."),
        runtime_option,
        _option(
            "--image", field="image", metavar="IMAGE", help=f"What containers run.  [default: {DEFAULT_IMAGE}]"
        ),
        _option(
            "--pull", field="pull", metavar="missing|always|never", help="When to pull the image.  [default: missing]"
        ),
        _option(
            "--announce", field="announce", metavar="STRATEGY",
            help="How containers announce themselves: fixed-address, gateway, host-name, client-address or same-port."
            "  [default: what fits the engine]",
        ),
        _option(
            "--announce-host", field="announce_host", metavar="NAME",
            help="Announce this name, which leads to this machine, for every node (host-name).",
        ),
        _option(
            "--audience", field="audience", metavar="both|host|network",
            help="Who must be able to use it: programs on this machine, or beside the servers.  [default: both, where"
            " that is possible]",
        ),
        click.option(
            "--no-publish", is_flag=True, default=None, envvar=environment("no_publish"),
            help="Publish no ports on 127.0.0.1: containers are reached by their own addresses.",
        ),
        click.option(
            "--publish", "expose", metavar="ADDRESS", envvar=environment("publish"),
            help="Open the data ports at an address of this machine's on its local network, and send clients there; a"
            " password is demanded.",
        ),
        click.option(
            "--insecure", is_flag=True, default=None, envvar=environment("insecure"),
            help="Open ports to the local network without a password all the same.",
        ),
        click.option(
            "--ephemeral", is_flag=True, default=None, envvar=environment("ephemeral"),
            help="No volumes: the data is gone with the containers.",
        ),
        password_option,
        click.option(
            "--generate-password", is_flag=True, help="Protect it with a password that is made and kept for its user."
        ),
        _option(
            "--user", field="user", metavar="NAME",
            help="Whom the password is for; other users may do nothing then.  [default: default]",
        ),
        click.option(
            "--acl-file", type=click.Path(dir_okay=False, path_type=Path), envvar=environment("acl_file"),
            metavar="FILE", help="An ACL file for every server; the user with the password must be in it.",
        ),
        click.option(
            "--tls", is_flag=True, default=None, envvar=environment("tls"),
            help="Encrypt everything; certificates are made, and kept for its user, or given:",
        ),
        *certificate_options,
        _option("--memory", field="memory", metavar="SIZE", help="Limit of each container, such as 256m."),
        _option("--server", field="server", metavar="PATH", help="The server binary.  [default: one that is found]"),
        click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A server setting; repeatable."),
        _option(
            "--extra-replica-of", field="extra_replica_of", metavar="NODE,...",
            help="Which primaries take the nodes that are left over.  [default: in order]",
        ),
        _option("--min-primaries", field="min_primaries", metavar="N", help="Refuse fewer primaries.  [default: 1]"),
        state_root_option,
        click.option(
            "--config", type=click.Path(dir_okay=False, path_type=Path), envvar=f"{PREFIX}_CONFIG", metavar="FILE",
            help="A TOML file with these fields; flags and environment go before it.",
        ),
    )  # fmt: skip


def state_root_option(function: F) -> F:
    """``--state-root``."""
    return _option(
        "--state-root",
        field="state_root",
        metavar="DIR",
        help="Where clusters are kept.  [default: the user's state folder]",
    )(function)


def runtime_option(function: F) -> F:
    """``--runtime`` for a new cluster."""
    return _option(
        "--runtime",
        field="runtime",
        metavar="auto|docker|process",
        help="Where servers run; auto takes an engine that answers, otherwise processes.  [default: auto]",
    )(function)


def where_options(function: F) -> F:
    """Where clusters of ours are looked for."""
    return apply(
        click.option(
            "--runtime", type=click.Choice(get_args(RuntimeKind)), default="auto", envvar=environment("runtime"),
            help="Where to look for it; auto looks everywhere.",
        ),
        state_root_option,
    )(function)  # fmt: skip


def name_option(function: F) -> F:
    """``--name`` for verbs on an existing cluster."""
    return _option("--name", field="name", metavar="NAME", help="The cluster.  [default: the only one there is]")(
        function
    )


def password_option(function: F) -> F:
    """``--password-file``."""
    return click.option(
        "--password-file", type=click.Path(dir_okay=False, path_type=Path), envvar=environment("password_file"),
        metavar="FILE", help=f"File with the servers' password on its first line; {PREFIX}_PASSWORD holds it, too.",
    )(function)  # fmt: skip


def _file(flag: str, field: str, text: str) -> Callable[[F], F]:
    return click.option(
        flag, type=click.Path(dir_okay=False, path_type=Path), envvar=environment(field), metavar="FILE", help=text
    )


certificate_options: tuple[Callable[[F], F], ...] = (
    _file("--tls-ca", "tls_ca", "Certificates of the authorities to trust, PEM."),
    _file("--tls-cert", "tls_cert", "The certificate to show."),
    _file("--tls-key", "tls_key", "Its key."),
)


def login_options(function: F) -> F:
    """The login of servers that run, and whom to trust; of clusters of ours it is kept."""
    return apply(
        password_option,
        click.option("--tls", is_flag=True, help="Connections are encrypted; of clusters of ours that is known."),
        *certificate_options,
        _option("--user", field="user", metavar="NAME", help="Whom the password is for.  [default: default]"),
    )(function)


address_option = click.option(
    "--address", "servers", multiple=True, metavar="HOST:PORT", help="A node of any cluster, instead of a name."
)


def timeout_option(function: F) -> F:
    """``--timeout``."""
    return click.option(
        "--timeout", type=click.FloatRange(min=0.1), default=60.0, envvar=f"{PREFIX}_TIMEOUT", metavar="SECONDS",
        help="Give up after this long.  [default: 60]",
    )(function)  # fmt: skip


def look_options(*outputs: str) -> Callable[[F], F]:
    """How to show it, gathered into one `Look` by `take_look`; without outputs for a verb without a result."""
    form = click.option("--output", "-o", type=click.Choice(outputs), default="text", help="Form of the result.")
    brief = "; of the result only `host:port,...`" if outputs else ""
    return apply(
        *([form] if outputs else []),
        click.option("--quiet", "-q", is_flag=True, help=f"No progress{brief}."),
        click.option(
            "--progress", type=click.Choice(("auto", "tty", "plain", "json", "quiet")), default="auto",
            envvar=f"{PREFIX}_PROGRESS", help="Form of the progress on stderr.",
        ),
        click.option(
            "--color", type=click.Choice(("auto", "always", "never")), default="auto", envvar=f"{PREFIX}_COLOR",
            help="Colours; NO_COLOR and FORCE_COLOR are honoured.",
        ),
        click.option("--verbose", "-v", count=True, help="More: every command, tracebacks; -vv logs every event."),
    )  # fmt: skip


def read_spec(flags: Mapping[str, Any], config: Path | None, defaults: Mapping[str, Any] | None = None) -> ClusterSpec:
    """One specification of flags (environment included) and a file, checked as a whole.

    Args:
        flags: by field; None and nothing at all leave it to the file.
        config: the file.
        defaults: what to take where neither says anything, instead of the specification's own.

    Raises:
        SpecError: with every problem.
        UsageError: the file cannot be read.
    """
    raw = {**(defaults or {}), **(_read_toml(config) if config is not None else {})}
    raw |= {name: value for name, value in flags.items() if name in SPEC_FIELDS and value not in (None, ())}
    if (hidden := flags.get("no_publish")) is not None:
        raw["publish"] = not hidden
    table = raw.get("settings", {})
    problems: list[Problem] = []
    if isinstance(table, tuple):
        table, problems = _pairs(table)
        raw["settings"] = {**_table(config), **table}
    try:
        spec = parse_spec(raw)
    except SpecError as error:
        raise SpecError([*problems, *error.problems]) from None
    if problems:
        raise SpecError(problems)
    return spec


def _pairs(texts: Sequence[str]) -> tuple[dict[str, str], list[Problem]]:
    pairs = [text.partition("=") for text in texts]
    wrong = [Problem("settings", f"{key!r} has no value", "use KEY=VALUE") for key, sign, _ in pairs if not sign]
    return {key.strip().lower(): value for key, sign, value in pairs if sign}, wrong


def _table(config: Path | None) -> dict[str, Any]:
    found = _read_toml(config).get("settings", {}) if config is not None else {}
    return found if isinstance(found, dict) else {}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"`{path}` cannot be read: {error.strerror}", code="bad-config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"`{path}` is not TOML: {error}", code="bad-config") from error


def read_password(file: Path | None) -> str | None:
    """The password of a file (its first line) or of the environment.

    Raises:
        UsageError: the file cannot be read or is empty.
    """
    if file is None:
        return os.environ.get(f"{PREFIX}_PASSWORD") or None
    lines = read_secret(file, "bad-password-file").splitlines()
    if not lines or not lines[0]:
        raise UsageError(f"`{file}` holds no password", code="bad-password-file", hint="put it on the first line")
    return lines[0]


def read_secret(file: Path, code: str) -> str:
    """The text of a file.

    Raises:
        UsageError: with this code, where it cannot be read.
    """
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise UsageError(f"`{file}` cannot be read: {reason}", code=code) from error


def take_login(flags: dict[str, Any]) -> Login:
    """Take what protects a new cluster out of a verb's flags.

    Raises:
        UsageError: a file cannot be read.
    """
    from bootstrap.operations.login import Login

    password_file, acl_file = flags.pop("password_file"), flags.pop("acl_file")
    generate = flags.pop("generate_password")
    acl = read_secret(acl_file, "bad-acl-file") if acl_file else None
    return Login(read_password(password_file), generate, acl)


def take_certificates(flags: dict[str, Any]) -> Certificates | None:
    """Take the certificates for a new cluster out of a verb's flags.

    Raises:
        UsageError: a file cannot be read, or one of them is missing.
    """
    from bootstrap.operations.protection import Certificates

    files = {name: flags.pop(name) for name in ("tls_ca", "tls_cert", "tls_key")}
    if not any(files.values()):
        return None
    if missing := [name for name, file in files.items() if file is None]:
        given = " and ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise UsageError(f"{given} is missing", code="bad-certificates", hint="give all three, or none of them")
    flags["tls"] = True
    return Certificates(*(read_secret(file, "bad-certificates") for file in files.values()))


def take_credentials(flags: dict[str, Any]) -> Credentials:
    """Take who logs in, and whom he trusts, out of the flags of a verb for servers that run.

    Raises:
        UsageError: a file cannot be read.
    """
    from bootstrap.formation.base import Credentials, Encryption

    password_file = flags.pop("password_file", None)
    password = read_password(password_file)
    ca, certificate, key = (flags.pop(name, None) for name in ("tls_ca", "tls_cert", "tls_key"))
    encryption = None
    if flags.pop("tls", False) or ca:
        text = read_secret(ca, "bad-certificates") if ca else ""
        encryption = Encryption(text, _path(certificate), _path(key), _path(ca))
    return Credentials(password, flags.pop("user", None), encryption, _path(password_file))


def _path(file: Path | None) -> str:
    """A file's whole name, for lines that may be copied to elsewhere."""
    return str(file.absolute()) if file else ""
