"""What is asked for: a frozen `ClusterSpec`, checked as a whole."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, cast, get_args

from bootstrap.errors import Problem, SpecError
from bootstrap.planning.text import plural

MAX_NODES = 1000
"""The largest cluster the servers are specified for (cluster specification, "High performance and linear scalability
up to 1000 nodes")."""

BUS_OFFSET = 10000
"""The cluster bus listens on the data port plus this, unless told otherwise (`CLUSTER_PORT_INCR` in cluster.h)."""

MAX_DATA_PORT = 65535 - BUS_OFFSET
"""The highest data port with room for its bus port."""

DEFAULT_IMAGE = "valkey/valkey:9.1"
"""What containers run unless told otherwise."""

MAX_ANNOUNCED = 45
"""The longest host that a node can announce (`NET_IP_STR_LEN` in server.h holds it with its end)."""

DEFAULT_USER = "default"
"""The user of clients that name none."""

RuntimeKind = Literal["auto", "docker", "process"]
Pull = Literal["missing", "always", "never"]
Announce = Literal["auto", "fixed-address", "gateway", "host-name", "client-address", "same-port"]

Who = Literal["auto", "both", "host", "network"]
"""Who must be able to use a cluster."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_SETTING = re.compile(r"[a-z][a-z0-9-]*")
_ZONE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}")
_MEMORY = re.compile(r"(\d{1,12})([kmg]?)b?", re.IGNORECASE)
_MEMORY_UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
MIN_MEMORY = 16 * 1024**2
"""A server that holds nothing takes about 10 MiB."""

_DECIDED = "it is decided by the plan"
RESERVED_SETTINGS: Mapping[str, str] = {
    **dict.fromkeys(
        [
            "bind",
            "cluster-enabled",
            "cluster-config-file",
            "cluster-port",
            "cluster-announce-ip",
            "cluster-announce-port",
            "cluster-announce-bus-port",
            "cluster-announce-tls-port",
            "cluster-announce-hostname",
            "cluster-announce-human-nodename",
            "cluster-announce-client-ipv4",
            "cluster-announce-client-ipv6",
            "cluster-announce-client-port",
            "cluster-preferred-endpoint-type",
            "daemonize",
            "dir",
            "include",
            "logfile",
            "pidfile",
            "protected-mode",
            "replica-announce-ip",
            "replica-announce-port",
            "slave-announce-ip",
            "slave-announce-port",
            "supervised",
            "tls-port",
        ],
        _DECIDED,
    ),
    "port": "it is decided by the plan; use --base-port",
    "availability-zone": "it is decided by the plan; use --zones",
    **dict.fromkeys(("replicaof", "slaveof"), "a cluster replicates by CLUSTER REPLICATE"),
    **dict.fromkeys(
        ("requirepass", "masterauth", "masteruser", "primaryauth", "primaryuser", "user", "aclfile"),
        "who logs in is decided by --password-file, --user and --acl-file",
    ),
    **dict.fromkeys(
        (
            "tls-auth-clients",
            "tls-ca-cert-dir",
            "tls-ca-cert-file",
            "tls-cert-file",
            "tls-client-cert-file",
            "tls-client-key-file",
            "tls-cluster",
            "tls-key-file",
            "tls-replication",
        ),
        "it is decided by --tls",
    ),
    "rename-command": "formation needs the commands under their own names",
}
"""Server settings that ``--set`` refuses, each with the reason."""


DANGEROUS_SETTINGS: Mapping[str, str] = {
    "enable-debug-command": "lets clients crash and stop it (DEBUG)",
    "enable-module-command": "lets clients load code into it (MODULE LOAD)",
    "enable-protected-configs": "lets clients write files anywhere (CONFIG SET dir)",
    "loadmodule": "loads code into it",
    "unixsocket": "opens another way in, beside its ports",
}
"""Server settings that ``--set`` takes and warns of, each with the reason."""


class SpecFields(TypedDict, total=False):
    """The fields of a `ClusterSpec` as keyword arguments."""

    name: str
    nodes: int
    replicas: int
    extra_replica_of: Sequence[str]
    min_primaries: int
    runtime: RuntimeKind
    base_port: int | Literal["auto"] | None
    server: str | None
    image: str | None
    pull: Pull
    announce: Announce
    announce_host: str | None
    audience: Who
    publish: bool
    expose: str | None
    insecure: bool
    ephemeral: bool
    memory: str | None
    zones: Sequence[str]
    user: str | None
    tls: bool
    settings: Mapping[str, str]
    state_root: str | None


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A cluster as asked for.

    Args:
        name: lower-case letters, digits and hyphens, at most 40; node names are made of it.
        nodes: the total, replicas included.
        replicas: replicas of each primary; ``primaries = nodes // (replicas + 1)``, what is left over become extra
            replicas, one per primary in order.
        extra_replica_of: the primaries (name or index) that take the extra replicas instead, in turn.
        min_primaries: refuse a shape with fewer.
        runtime: ``docker`` runs the servers in containers, ``process`` as local processes; ``auto`` takes an engine
            that answers, otherwise processes.
        base_port: data port of the first node, the others follow; ``None`` takes 6379 or the next free block,
            ``"auto"`` a random free block, a number is strict. Bus ports are 10000 above.
        server: path of the server binary (processes); ``None`` looks for one.
        image: what containers run; ``None`` takes `DEFAULT_IMAGE`.
        pull: when the image is pulled: if it is ``missing``, ``always`` or ``never``.
        announce: how containers are announced to clients (see `bootstrap.planning.addressing`); ``auto`` decides by
            the engine and who can reach it.
        announce_host: a name that leads to this machine, announced by every node (``host-name``).
        audience: who must be able to use the cluster: programs on this machine (``host``), programs beside the servers
            on their own network (``network``), or ``both``; ``auto`` serves both where that is possible.
        publish: publish data ports on 127.0.0.1 where the announced addresses do not need it.
        expose: an address of this machine's on its local network, where data ports are published and clients are sent;
            a password is demanded then.
        insecure: open ports to the local network without a password all the same.
        ephemeral: no volumes: the data are gone with the containers.
        memory: limit of each container, such as ``256m``.
        zones: simulated availability zones, dealt to the nodes in turn.
        user: whom clients and nodes log in as; the password is given beside the specification, which holds no secret.
            None: there is no login. A user other than ``default`` may do everything, and ``default`` nothing, unless an
            ACL file says otherwise.
        tls: encrypt what clients, nodes and replicas send; plain ports are closed. Certificates are given beside the
            specification, or made.
        settings: any other server settings, as in its configuration file.
        state_root: folder that holds the clusters of the process runtime; ``None`` takes the user's state folder.

    `problems` finds what is wrong; `check` raises `SpecError` with all of it.
    """

    name: str = "valkey"
    nodes: int = 6
    replicas: int = 1
    extra_replica_of: Sequence[str] = ()
    min_primaries: int = 1
    runtime: RuntimeKind = "auto"
    base_port: int | Literal["auto"] | None = None
    server: str | None = None
    image: str | None = None
    pull: Pull = "missing"
    announce: Announce = "auto"
    announce_host: str | None = None
    audience: Who = "auto"
    publish: bool = True
    expose: str | None = None
    insecure: bool = False
    ephemeral: bool = False
    memory: str | None = None
    zones: Sequence[str] = ()
    user: str | None = None
    tls: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    state_root: str | None = None

    def __post_init__(self) -> None:
        # Copies, so that a caller's list or dict cannot change a frozen value; a wrong type stays for `problems`.
        for name in ("extra_replica_of", "zones"):
            value = getattr(self, name)
            if isinstance(value, (list, tuple)):
                object.__setattr__(self, name, tuple(value))
        if isinstance(self.settings, Mapping):
            object.__setattr__(self, "settings", dict(self.settings))

    def check(self) -> None:
        """Raise `SpecError` with every problem, if there is one."""
        if problems := self.problems():
            raise SpecError(problems)

    def problems(self) -> tuple[Problem, ...]:
        """Everything that is wrong, in the order of the fields; empty for a specification that can be planned."""
        wrong = tuple(_own_problems(self))
        # The arithmetic needs numbers: it is only judged where the numbers themselves are sound.
        unsound = {problem.field for problem in wrong}
        if isinstance(self.name, str) and not unsound & {"nodes", "replicas", "min_primaries", "extra_replica_of"}:
            wrong += tuple(_topology_problems(self))
        if not unsound & {"nodes", "base_port"}:
            wrong += tuple(_port_problems(self))
        return wrong


def parse_spec(raw: Mapping[str, object]) -> ClusterSpec:
    """Make a specification of values as people write them (flags, environment, TOML): numbers may be text.

    Raises:
        SpecError: with every problem, unknown fields included.
    """
    known = {each.name for each in fields(ClusterSpec)}
    unknown = [
        Problem(name, "no such field", f"fields: {', '.join(sorted(known))}") for name in raw if name not in known
    ]
    values: dict[str, Any] = {name: value for name, value in raw.items() if name in known}
    for name in ("nodes", "replicas", "min_primaries", "base_port"):
        if isinstance(text := values.get(name), str) and re.fullmatch(r"\s*-?\d+\s*", text):
            values[name] = int(text)
    for name in ("publish", "insecure", "ephemeral", "tls"):
        if isinstance(text := values.get(name), str) and text.lower() in _TRUTH:
            values[name] = _TRUTH[text.lower()]
    for name in ("zones", "extra_replica_of"):
        if isinstance(text := values.get(name), str):
            values[name] = tuple(part.strip() for part in text.split(",")) if text else ()
    if isinstance(table := values.get("settings"), Mapping):
        values["settings"] = {str(key): _setting_text(value) for key, value in table.items()}
    spec = ClusterSpec(**values)
    if problems := (*unknown, *spec.problems()):
        raise SpecError(problems)
    return spec


_TRUTH = {"yes": True, "true": True, "1": True, "on": True, "no": False, "false": False, "0": False, "off": False}


def _setting_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def node_name(cluster: str, index: int) -> str:
    """``valkey0``; ``web1-0`` where the cluster's name ends in a digit."""
    return f"{cluster}-{index}" if cluster[-1:].isdigit() else f"{cluster}{index}"


def replica_counts(spec: ClusterSpec) -> tuple[int, ...]:
    """Replicas of each primary, in order: the even share, and the extra replicas of what is left over.

    The specification must be free of problems.
    """
    primaries, left_over = divmod(spec.nodes, spec.replicas + 1)
    counts = [spec.replicas] * primaries
    takers = [cast(int, primary_index(spec, ref)) for ref in spec.extra_replica_of] or list(range(primaries))
    for extra in range(left_over):
        counts[takers[extra % len(takers)]] += 1
    return tuple(counts)


def primary_index(spec: ClusterSpec, ref: str) -> int | None:
    """The index of the primary that a name or index stands for, or None."""
    primaries = spec.nodes // (spec.replicas + 1)
    names = {node_name(spec.name, index): index for index in range(primaries)}
    names |= {str(index): index for index in range(primaries)}
    return names.get(str(ref))


def memory_bytes(text: str) -> int:
    """``256m`` as bytes; units are powers of 1024.

    Raises:
        ValueError: not of that form.
    """
    match = _MEMORY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory")
    return int(match[1]) * _MEMORY_UNITS[match[2].lower()]


def is_name(text: str) -> bool:
    """Whether a cluster may have this name."""
    return _NAME.fullmatch(text) is not None


def _own_problems(spec: ClusterSpec) -> Iterator[Problem]:
    if not isinstance(spec.name, str) or not is_name(spec.name):
        yield Problem(
            "name",
            f"{spec.name!r} is not a name",
            "use 1 to 40 lower-case letters, digits and hyphens, such as `valkey`",
        )
    yield from _number("nodes", spec.nodes, 1, MAX_NODES, "the largest cluster the servers are made for")
    yield from _number("replicas", spec.replicas, 0, MAX_NODES - 1, "one less than the largest cluster")
    yield from _number(
        "min_primaries", spec.min_primaries, 1, MAX_NODES, "the largest cluster the servers are made for"
    )
    yield from _choice("runtime", spec.runtime, get_args(RuntimeKind))
    port = spec.base_port
    if port not in (None, "auto") and (not isinstance(port, int) or isinstance(port, bool)):
        yield Problem("base_port", f"{port!r} is not a port", "use a number or auto")
    if not isinstance(spec.extra_replica_of, tuple):
        yield Problem("extra_replica_of", f"{spec.extra_replica_of!r} is not a list of names", "use a tuple of names")
    yield from _container_problems(spec)
    yield from _zone_problems(spec.zones)
    if spec.user is not None and not (isinstance(spec.user, str) and _USER.fullmatch(spec.user)):
        yield Problem("user", f"{spec.user!r} is not the name of a user", "use letters, digits, and . _ @ -")
    yield from _setting_problems(spec.settings)


def _choice(name: str, value: object, choices: Sequence[str]) -> Iterator[Problem]:
    if value not in choices:
        yield Problem(name, f"{value!r} is not one of {', '.join(choices)}", f"use {' or '.join(choices)}")


def _container_problems(spec: ClusterSpec) -> Iterator[Problem]:
    yield from _choice("pull", spec.pull, get_args(Pull))
    yield from _choice("announce", spec.announce, get_args(Announce))
    yield from _choice("audience", spec.audience, get_args(Who))
    for name in ("publish", "insecure", "ephemeral", "tls"):
        if not isinstance(value := getattr(spec, name), bool):
            yield Problem(name, f"{value!r} is neither true nor false", "use true or false")
    if spec.image is not None and not (isinstance(spec.image, str) and _IMAGE.fullmatch(spec.image)):
        yield Problem("image", f"{spec.image!r} is not the name of an image", f"use a name such as {DEFAULT_IMAGE}")
    if spec.memory is not None:
        try:
            enough = memory_bytes(spec.memory) >= MIN_MEMORY
        except (ValueError, AttributeError):
            enough = False
        if not enough:
            yield Problem("memory", f"{spec.memory!r} is no limit for a server", "use 16m or more, such as 256m")
    yield from _announce_host_problems(spec)
    yield from _expose_problems(spec)
    if asked := containers_asked(spec):
        if spec.runtime == "process":
            yield Problem("runtime", f"process does not go with {asked}", f"leave out {asked}, or use docker")
        if spec.server is not None:
            yield Problem("server", f"a server binary does not go with {asked}", "leave one of them out")
    if spec.server is not None and spec.runtime == "docker":
        yield Problem("server", "containers run an image, not a server binary", "use --image")


def containers_asked(spec: ClusterSpec) -> str:
    """The field that only makes sense for containers, as a word for people; "" if there is none."""
    default = ClusterSpec.__dataclass_fields__
    fields = ("image", "announce", "announce_host", "audience", "publish", "expose", "ephemeral", "memory")
    found = next((name for name in fields if getattr(spec, name) != default[name].default), "")
    return {"publish": "no-publish", "expose": "publish"}.get(found, found.replace("_", "-"))


def _announce_host_problems(spec: ClusterSpec) -> Iterator[Problem]:
    name = spec.announce_host
    if name is None:
        if spec.announce == "host-name":
            yield Problem("announce", "host-name needs the name to announce", "give --announce-host NAME")
        return
    if not isinstance(name, str) or not _HOST.fullmatch(name):
        yield Problem("announce_host", f"{name!r} is not a host name", "use a name such as myhost.local")
    elif len(name) > MAX_ANNOUNCED:
        yield Problem(
            "announce_host",
            f"{name!r} has {len(name)} characters, and servers announce at most {MAX_ANNOUNCED}",
            "use a shorter name for this machine, or leave it out",
        )
    elif name.lower() == "localhost" or (looks_like_an_address(name) and not _can_lead_elsewhere(name)):
        yield Problem(
            "announce_host",
            f"{name} leads each container to itself, or nowhere",
            "use a name that leads to this machine from everywhere, such as myhost.local",
        )
    if spec.announce not in ("auto", "host-name"):
        yield Problem("announce_host", f"{spec.announce} announces no name", "leave one of them out")
    if not spec.publish:
        yield Problem("publish", "a name leads to ports that must be published", "leave out --no-publish")


def _expose_problems(spec: ClusterSpec) -> Iterator[Problem]:
    if spec.expose is None:
        return
    if (
        not isinstance(spec.expose, str)
        or not looks_like_an_address(spec.expose)
        or not _can_lead_elsewhere(spec.expose)
    ):
        yield Problem(
            "expose",
            f"{spec.expose!r} is no address of this machine on its local network",
            "use an IPv4 address such as 192.168.1.5",
        )
    elif spec.announce not in ("auto", "client-address", "same-port") or spec.announce_host is not None:
        yield Problem("expose", "it says what is announced", "leave out what else is announced")
    elif not spec.publish:
        yield Problem("expose", "it publishes what --no-publish forbids", "leave one of them out")


def looks_like_an_address(name: str) -> bool:
    """Whether a host is an IPv4 address, or would be taken for one."""
    return all(part.isdigit() for part in name.split("."))


def _can_lead_elsewhere(text: str) -> bool:
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


def _number(name: str, value: object, low: int, high: int, why: str) -> Iterator[Problem]:
    hint = f"use {low} to {high}"
    if not isinstance(value, int) or isinstance(value, bool):
        yield Problem(name, f"{value!r} is not a whole number", hint)
    elif value < low:
        yield Problem(name, f"{value} is less than {low}", hint)
    elif value > high:
        yield Problem(name, f"{value} is more than {high}, {why}", hint)


def _topology_problems(spec: ClusterSpec) -> Iterator[Problem]:
    share = spec.replicas + 1
    primaries = spec.nodes // share
    if primaries == 0:
        works = ", ".join(f"{share * n} ({n} {'primary' if n == 1 else 'primaries'})" for n in (1, 2, 3))
        yield Problem(
            "nodes",
            f"{spec.nodes} cannot give one primary {plural(spec.replicas, 'replica')}: that takes {share} nodes",
            f"counts that work: {works}",
        )
        return
    if primaries < spec.min_primaries:
        yield Problem(
            "nodes",
            f"{plural(spec.nodes, 'node')} with {plural(spec.replicas, 'replica')} each make "
            f"{plural(primaries, 'primary', 'primaries')}, and {spec.min_primaries} are demanded",
            f"use {spec.min_primaries * share} nodes or more",
        )
    left_over = spec.nodes % share
    if spec.extra_replica_of and not left_over:
        yield Problem("extra_replica_of", f"{spec.nodes} nodes leave no extra replica", f"use {spec.nodes + 1} nodes")
    for ref in spec.extra_replica_of:
        if primary_index(spec, ref) is None:
            names = node_name(spec.name, 0), node_name(spec.name, primaries - 1)
            yield Problem(
                "extra_replica_of",
                f"{ref!r} is not a primary of this plan",
                f"primaries are {names[0]} to {names[1]}",
            )


def _port_problems(spec: ClusterSpec) -> Iterator[Problem]:
    port = spec.base_port
    if not isinstance(port, int):
        return
    highest = MAX_DATA_PORT - spec.nodes + 1
    if not 1 <= port <= highest:
        yield Problem(
            "base_port",
            f"{port} leaves no room for {plural(spec.nodes, 'data port')} and their bus ports {BUS_OFFSET} above",
            f"use 1 to {highest}",
        )


def _zone_problems(zones: object) -> Iterator[Problem]:
    if not isinstance(zones, tuple):
        yield Problem("zones", f"{zones!r} is not a list of names", "use a tuple such as ('a', 'b')")
        return
    for zone in zones:
        if not isinstance(zone, str) or not _ZONE.fullmatch(zone):
            yield Problem("zones", f"{zone!r} is not a zone's name", "use letters, digits, dots, hyphens, underscores")
    if len(set(zones)) != len(zones):
        yield Problem("zones", "the same zone is named twice", "name each zone once; nodes are dealt out in turn")


def _setting_problems(settings: object) -> Iterator[Problem]:
    if not isinstance(settings, dict):
        yield Problem("settings", f"{settings!r} is not a table of settings", "use a mapping of names to values")
        return
    for key, value in settings.items():
        if not isinstance(key, str) or not _SETTING.fullmatch(key):
            yield Problem(
                "settings", f"{key!r} is not the name of a server setting", "use KEY=VALUE, as in valkey.conf"
            )
        elif key in RESERVED_SETTINGS:
            yield Problem("settings", f"{key} is reserved: {RESERVED_SETTINGS[key]}", f"leave out {key}")
        elif not isinstance(value, str) or any(ord(char) < 32 for char in value):
            yield Problem("settings", f"the value of {key} must be text of one line", "leave out control characters")
