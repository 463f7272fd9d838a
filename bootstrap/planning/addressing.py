"""Where a node is reached: by clients, by the other nodes, and by this package.

A node behind address translation has several addresses (the "NAT problem"): what it announces to clients, what its
peers meet, and the way that the bootstrapper itself takes. Servers on the loopback interface have the same one for all.

Containers have the same port inside and outside, so that only hosts differ. How they announce themselves is a strategy:

==================  =================================  ======================  =====================================
strategy            announced to clients               published ports         who gets through
==================  =================================  ======================  =====================================
``fixed-address``   the container's own address        none needed             a Linux host, containers on the network
``gateway``         the gateway of the network         data and bus, there     a Linux host, containers anywhere
``host-name``       a name of this machine             data and bus            the host, containers that map the name
``client-address``  127.0.0.1, to clients only         data, on 127.0.0.1      the host
``same-port``       the name localhost                 data, on 127.0.0.1      the host
==================  =================================  ======================  =====================================

`choose_announcement` decides which, `reach` what that means for one node; both are pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bootstrap.errors import UsageError
from bootstrap.planning.ports import PortUse
from bootstrap.planning.site import Engine, Resolved, Site
from bootstrap.planning.spec import BUS_OFFSET, ClusterSpec, looks_like_an_address

LOOPBACK = "127.0.0.1"
HOST_GATEWAY = "${host_gateway}"
"""Stands in a plan for the address under which containers reach this machine (``host-gateway`` of the engine)."""

Strategy = Literal["fixed-address", "gateway", "host-name", "client-address", "same-port"]

Audience = Literal["host", "network"]
"""Who wants to connect: programs on this machine, or programs beside the servers on their own network."""

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\s:\[\]@/,]+)):(?P<port>\d{1,5})")


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host, by name or address, and a TCP port; ``str()`` gives ``host:port``, IPv6 in brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``host:port``.

        Raises:
            ValueError: for anything else, and for ports outside 1 to 65535.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or not 1 <= int(match["port"]) <= 65535:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(match["six"] or match["host"], int(match["port"]))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """All the addresses of one node.

    Args:
        host: what clients on this machine connect to.
        network: what clients beside the servers connect to; the same as `host` where those are on this machine.
        control: the way this package itself takes.
        meet: how the other nodes reach it; ``CLUSTER MEET`` takes IP literals only (`clusterStartHandshake`).
        bus_port: the port of the cluster bus at ``meet.host``.
        announced: where the nodes send clients; None where that is not decided here, on servers of others.
    """

    host: Address
    network: Address | None
    control: Address
    meet: Address
    bus_port: int
    announced: Address | None = None

    @property
    def bus(self) -> Address:
        """Where the other nodes reach the cluster bus."""
        return Address(self.meet.host, self.bus_port)

    @property
    def routed(self) -> bool:
        """Whether clients on this machine get through to where the nodes send them.

        They do not where only the nodes' own addresses are announced and this package itself takes another way: a
        ``fixed-address`` of an engine that keeps its containers' addresses to itself.
        """
        return self.announced in (None, self.host, self.control) or self.announced != self.meet

    def of(self, audience: Audience) -> Address | None:
        """The address for an audience, or None where it has none."""
        return self.host if audience == "host" else self.network

    def as_dict(self) -> dict[str, str | None]:
        """The JSON form: ``host``, ``network``, ``announced`` and ``bus`` as ``host:port``."""
        return {
            "host": str(self.host),
            "network": str(self.network) if self.network else None,
            "announced": str(self.announced) if self.announced else None,
            "bus": str(self.bus),
        }


def loopback(port: int) -> NodeAddresses:
    """A server of this machine's loopback interface: one address for everybody, bus port 10000 above."""
    address = Address(LOOPBACK, port)
    return NodeAddresses(address, address, address, address, port + BUS_OFFSET)


def given(address: Address, ip: str, bus_port: int | None = None) -> NodeAddresses:
    """A server that somebody else runs: reached as given, met by the IP literal that its name resolved to."""
    meet = Address(ip, address.port)
    return NodeAddresses(address, address, address, meet, bus_port or address.port + BUS_OFFSET)


@dataclass(frozen=True, slots=True)
class Announcement:
    """How the containers of a cluster announce themselves.

    Args:
        strategy: one of the table above.
        why: the reason, for people.
        name: what is announced with ``host-name``.
        address: what that name leads to on this machine.
        gateway: the address of the engine's machine where ports are published for containers, with ``host-name``.
        inside: what that name leads to in containers, `HOST_GATEWAY` or an address.
        routed: this machine reaches containers by their own addresses. Otherwise they are asked through ports on
            127.0.0.1, and clients here cannot follow redirections to a ``fixed-address``.
    """

    strategy: Strategy
    why: str
    name: str = ""
    address: str = ""
    gateway: str = ""
    inside: str = ""
    routed: bool = True

    @property
    def mapping(self) -> tuple[tuple[str, str], ...]:
        """The name, and what containers have to map it to (Docker's ``--add-host``)."""
        if self.name in ("", self.inside):  # an address needs no mapping
            return ()
        return ((self.name, "host-gateway" if self.inside == HOST_GATEWAY else self.inside),)


@dataclass(frozen=True, slots=True)
class Reach:
    """What a strategy means for one node.

    Args:
        addresses: where it is reached.
        settings: what it announces, as server settings.
        published: addresses and ports of the engine's machine that lead to the same port of the container.
        hosts: names that the container is to know, with their addresses.
    """

    addresses: NodeAddresses
    settings: tuple[tuple[str, str], ...]
    published: tuple[Address, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()


def choose_announcement(spec: ClusterSpec, site: Site) -> Announcement:
    """The strategy that was asked for, or the one that fits the engine, with the reason.

    Raises:
        UsageError: what was asked for cannot work with this engine.
    """
    engine = site.engine
    assert engine is not None, "only containers announce themselves"
    chosen = _choose(spec, site, engine)
    _demand_password(chosen, spec, engine)
    unserved = {"both": {"host", "network"}}.get(spec.audience, {spec.audience}) - serves(chosen) - {"auto"}
    if unserved:
        missed = " and ".join(sorted(_AUDIENCES[each] for each in unserved))
        raise UsageError(
            f"{chosen.strategy} does not serve {missed}, and --audience {spec.audience} demands it: {chosen.why}",
            code="audience-impossible",
            hint=_audience_hint(spec, engine),
        )
    return chosen


def _demand_password(chosen: Announcement, spec: ClusterSpec, engine: Engine) -> None:
    """Nothing is opened to a local network without a password, unless that is said."""
    if opened_to_others(chosen, engine) and spec.user is None and not spec.insecure:
        raise UsageError(
            f"the ports would be open to the network of {chosen.address} without a password",
            code="password-demanded",
            hint="protect them with --generate-password or --password-file, or say --insecure",
        )


def opened_to_others(chosen: Announcement, engine: Engine) -> bool:
    """Whether ports are bound to an address that other machines reach."""
    # What containers of one machine reach each other by is no local network.
    return engine.place not in ("dind", "nested") and bool(chosen.address) and not chosen.address.startswith("127.")


_AUDIENCES = {"host": "programs on this machine", "network": "programs beside the servers"}


def _audience_hint(spec: ClusterSpec, engine: Engine) -> str:
    if spec.announce != "auto":
        return "leave out --announce"
    if engine.place in ("local", "nested", "dind"):
        return "leave out --audience"
    return f"lead a name to this machine (`{LOOPBACK} NAME` in /etc/hosts) and announce that: --announce-host NAME"


def serves(chosen: Announcement) -> frozenset[str]:
    """Who can use a cluster that is announced so: ``host``, ``network``."""
    match chosen.strategy:
        case "client-address" | "same-port":
            # An address of this machine's leads containers to what is published there.
            return frozenset({"host", "network"}) if chosen.address else frozenset({"host"})
        case "fixed-address" if not chosen.routed:
            return frozenset({"network"})
        case _:
            return frozenset({"host", "network"})


def _choose(spec: ClusterSpec, site: Site, engine: Engine) -> Announcement:
    if spec.expose is not None:
        return _exposed(spec.expose, spec, site, engine)
    if spec.announce_host is not None:
        return _named(spec.announce_host, site, engine, "--announce-host says so")
    if spec.announce != "auto":
        return _asked(spec.announce, spec, site, engine)
    return _fitting(spec, site, engine)


def _exposed(address: str, spec: ClusterSpec, site: Site, engine: Engine) -> Announcement:
    if engine.place in ("nested", "remote", "dind"):
        raise UsageError(
            f"--publish is for an engine of this machine, and this one is {_PLACES[engine.place]}",
            code="publish-impossible",
            hint="leave out --publish",
        )
    resolved = site.names.get(address)
    if resolved is None or resolved.whose != "own":
        raise UsageError(
            f"{address} is no address of this machine", code="publish-impossible", hint="see `ip -4 address`"
        )
    new = site.server.has("cluster-announce-client-ipv4")
    strategy: Strategy = "client-address" if new and spec.announce != "same-port" else "same-port"
    return Announcement(strategy, "--publish says so", address=address)


def _asked(strategy: Strategy, spec: ClusterSpec, site: Site, engine: Engine) -> Announcement:
    if reason := _impossible(strategy, spec, site, engine):
        raise UsageError(f"--announce {strategy} {reason}", code="announce-impossible", hint="leave out --announce")
    assert strategy != "host-name", "a name is demanded with it"
    routed = strategy != "fixed-address" or engine.place == "local"
    return Announcement(strategy, "--announce says so", routed=routed)


def _fitting(spec: ClusterSpec, site: Site, engine: Engine) -> Announcement:
    if spec.audience == "network" and engine.place in ("desktop", "rootless") and spec.publish:
        return Announcement("fixed-address", "only programs beside the servers are to use them", routed=False)
    match engine.place:
        case "local":
            return _for_linux(spec, engine)
        case "nested":
            return Announcement("gateway", "we run in a container ourselves, and reach what the gateway publishes")
        case "desktop":
            return _for_desktop(spec, site, engine)
        case "rootless":
            return _host_only(spec, site, "a rootless engine keeps the addresses of containers to itself")
        case "remote":
            raise UsageError(
                "containers of a remote engine are reached only through ports that its machine opens to its network",
                code="remote-engine",
                hint=f"open them with --announce-host {engine.machine or 'NAME'}, or use an engine on this machine",
            )
        case "dind":
            why = "the engine runs in a container of its own, and this name leads to it"
            _refuse_unpublished(spec, why)
            return _named(engine.machine, site, engine, why)


def _for_linux(spec: ClusterSpec, engine: Engine) -> Announcement:
    needed = neighbours_needed(spec.nodes)
    if 0 < engine.neighbours < needed:
        # When the table is full, connections fail at random; through the gateway each container has one neighbour.
        why = f"with fixed addresses {spec.nodes} nodes need {needed} entries of the kernel's neighbour table"
        return Announcement("gateway", f"{why}, which has room for {engine.neighbours}")
    return Announcement("fixed-address", "this Linux machine routes to its containers")


def neighbours_needed(nodes: int) -> int:
    """Entries of the kernel's neighbour table for nodes that all talk to each other, and to this machine and back."""
    return nodes * (nodes - 1) + 2 * nodes


def _for_desktop(spec: ClusterSpec, site: Site, engine: Engine) -> Announcement:
    # A name that leads to an address of the local network would open the ports there: only on request.
    resolved = site.names.get(engine.machine)
    if resolved is not None and resolved.whose == "loopback" and spec.publish:
        return _named(engine.machine, site, engine, "the name of this machine leads to it from both sides")
    return _host_only(spec, site, "addresses of containers cannot be reached from this machine")


def _impossible(strategy: Strategy, spec: ClusterSpec, site: Site, engine: Engine) -> str:
    """Why a strategy cannot work here, or ""."""
    place = _PLACES[engine.place]
    within = strategy == "fixed-address" and spec.audience == "network" and engine.place in ("desktop", "rootless")
    if strategy in ("fixed-address", "gateway") and engine.place not in ("local", "nested") and not within:
        return f"needs an engine on this Linux machine, and this one is {place}"
    if strategy == "fixed-address" and engine.place == "nested":
        return f"cannot be reached from the network of another container, and the engine is {place}"
    here_only = strategy in ("client-address", "same-port")
    if here_only and engine.place in ("nested", "remote", "dind"):
        return f"is for clients on the engine's own machine, and this one is {place}"
    if (here_only or within) and not spec.publish:
        return "needs published ports, and --no-publish forbids them"
    if strategy == "client-address" and not site.server.has("cluster-announce-client-ipv4"):
        return f"needs Valkey 8.1 or newer, and this is {site.server}; same-port does the same"
    return ""


_PLACES = {
    "local": "on this machine",
    "desktop": "in a virtual machine",
    "rootless": "rootless",
    "nested": "around the container that we run in",
    "remote": "on another machine",
    "dind": "in a container of its own",
}


def _refuse_unpublished(spec: ClusterSpec, why: str) -> None:
    if not spec.publish:
        raise UsageError(
            f"{why}, and --no-publish leaves no other way", code="announce-impossible", hint="leave out --no-publish"
        )


def _host_only(spec: ClusterSpec, site: Site, why: str) -> Announcement:
    _refuse_unpublished(spec, why)
    if site.server.has("cluster-announce-client-ipv4"):
        return Announcement("client-address", why)
    return Announcement("same-port", why)


def _named(name: str, site: Site, engine: Engine, why: str) -> Announcement:
    resolved = site.names.get(name)
    if resolved is None:
        raise UsageError(
            f"{name} leads nowhere on this machine, so no client here could follow a redirection",
            code="announce-host-unknown",
            hint=f"add `{LOOPBACK} {name}` to /etc/hosts, or announce another name",
        )
    _refuse_elsewhere(name, resolved, engine)
    if looks_like_an_address(name) and engine.place not in ("remote", "dind"):
        raise UsageError(
            f"{name} is an address, and from containers of this engine only a name can lead elsewhere than from here",
            code="announce-host-address",
            hint=f"give it a name in /etc/hosts (`{name} myhost.local`) and announce that",
        )
    # Where containers find the published ports: on Linux at an address of the engine's that is known only when it is
    # asked; a virtual machine hands what they send there to the loopback interface of the machine around it. Elsewhere
    # one address does for both sides.
    gateway, inside = {
        "desktop": (LOOPBACK, HOST_GATEWAY),
        "remote": (resolved.address, resolved.address),
        "dind": (resolved.address, resolved.address),
    }.get(engine.place, (HOST_GATEWAY, HOST_GATEWAY))
    return Announcement("host-name", why, name, resolved.address, gateway, inside)


def _refuse_elsewhere(name: str, resolved: Resolved, engine: Engine) -> None:
    if engine.place in ("remote", "dind"):
        if resolved.whose != "elsewhere":
            raise UsageError(
                f"{name} leads to {resolved.address}, which is here, and the engine is {_PLACES[engine.place]}",
                code="announce-host-elsewhere",
                hint="announce a name or address that leads to the engine's machine",
            )
        return
    if engine.place == "nested":
        # Our own addresses are those of a container; the engine's machine is elsewhere.
        if resolved.whose != "elsewhere":
            raise UsageError(
                f"{name} leads to {resolved.address}, which is this container and not the machine around it",
                code="announce-host-elsewhere",
                hint=f"map it to the engine's machine: `--add-host {name}:host-gateway` for this container",
            )
        return
    if resolved.whose == "elsewhere":
        raise UsageError(
            f"{name} leads to {resolved.address}, which is no address of this machine",
            code="announce-host-elsewhere",
            hint=f"correct the name, or /etc/hosts, or announce another name that leads to {LOOPBACK} here",
        )


def announcement_notes(chosen: Announcement, spec: ClusterSpec, engine: Engine) -> tuple[str, ...]:
    """What to know about the choice: the strategy with its reason, and who else gets through to the servers."""
    where = f"clients that reach {chosen.address}" if chosen.address else "clients on this machine only"
    reached = {
        "fixed-address": f"clients {'on this machine and ' if chosen.routed else ''}on the network",
        "gateway": "clients on this machine and in any container of it",
        "host-name": _named_reach(chosen),
        "client-address": where,
        "same-port": where,
    }[chosen.strategy]
    chosen_by = f"announced by {chosen.strategy}, for {reached}: {chosen.why}"
    return tuple(filter(None, (chosen_by, _neighbour_note(chosen, spec, engine))))


def _named_reach(chosen: Announcement) -> str:
    if chosen.inside != HOST_GATEWAY:
        return f"clients that reach {chosen.address}" + (f", which {chosen.name} must lead to" * bool(chosen.mapping))
    return f"clients on this machine, and containers that map {chosen.name} to host-gateway"


def _neighbour_note(chosen: Announcement, spec: ClusterSpec, engine: Engine) -> str:
    """What a machine of the same network segment gets to if it sends packets for the containers' network here."""
    if engine.place not in ("local", "nested") or ports_used(chosen, publish=spec.publish) == "none":
        return ""
    if chosen.strategy in ("gateway", "host-name"):
        return "a neighbour that routes to the containers' network reaches the ports published there"
    if not 0 < engine.major < 28:
        return ""
    # Earlier engines let routed packets through to every published port (moby/moby#45610), 127.0.0.1 included.
    note = f"Docker {engine.version} lets a neighbour that routes to the containers' network reach published ports"
    closes = "; --no-publish closes that" if chosen.strategy == "fixed-address" else ""
    return f"{note}, 28 and newer do not{closes}"


def announcement_warnings(chosen: Announcement, spec: ClusterSpec, engine: Engine) -> tuple[str, ...]:
    """What will not go well: a name that opens ports to the local network, more nodes than the kernel can connect."""
    needed = neighbours_needed(spec.nodes)
    if chosen.strategy in ("fixed-address", "client-address", "same-port") and 0 < engine.neighbours < needed:
        room = f"{spec.nodes} nodes need {needed} entries of the kernel's neighbour table, with room for"
        remedy = "use --announce gateway, or raise net.ipv4.neigh.default.gc_thresh3"
        return (f"{room} {engine.neighbours}: connections will fail; {remedy}",)
    if not chosen.address or chosen.address.startswith("127."):
        return ()
    leads = f"{chosen.name} leads to {chosen.address}: " if chosen.name else ""
    opened = f"{leads}the ports are open to the network {'there' if leads else f'of {chosen.address}'}"
    if spec.user is None:
        opened += ", without a password"
    elif not spec.tls:
        opened += ", and what is sent there can be read by others; --tls encrypts it"
    if not chosen.name or engine.place in ("remote", "dind"):
        return (opened,)
    return (f"{opened}; lead it to {LOOPBACK} in /etc/hosts to keep them on this machine",)


def ports_used(chosen: Announcement | None, *, publish: bool) -> PortUse:
    """Which ports of this machine a cluster takes; local processes take all of theirs.

    Args:
        chosen: how its containers are announced, None for local processes.
        publish: whether data ports are published on 127.0.0.1.
    """
    if chosen is None or chosen.strategy in ("gateway", "host-name"):
        return "all"
    return "none" if chosen.strategy == "fixed-address" and not publish else "data"


def reach(  # noqa: PLR0913 -- what a node is, and where
    chosen: Announcement,
    node: str,
    port: int,
    container: str,
    gateway: str,
    *,
    publish: bool = True,
    tls: bool = False,
) -> Reach:
    """What a strategy means for one node.

    Args:
        chosen: the strategy.
        node: the node's name, which its network resolves.
        port: its port, the same everywhere.
        container: its fixed address on the cluster's network.
        gateway: the gateway of that network.
        publish: whether data ports are published on 127.0.0.1, too.
        tls: the port is one for encrypted connections.
    """
    bus = port + BUS_OFFSET
    inside = Address(container, port)
    exposed = chosen.strategy in ("client-address", "same-port") and chosen.address
    here = Address(exposed or LOOPBACK, port)
    local = (here,) if publish else ()
    match chosen.strategy:
        case "fixed-address":
            control = inside if chosen.routed else here
            addresses = NodeAddresses(here if publish else inside, Address(node, port), control, inside, bus, inside)
            return Reach(addresses, (("cluster-announce-ip", container),), local)
        case "gateway":
            outside = Address(gateway, port)
            # Under address translation a primary would see every replica coming from the gateway.
            settings = _announced(gateway, port, bus, tls=tls)
            published = (outside, Address(gateway, bus), *local)
            return Reach(
                NodeAddresses(here if publish else outside, outside, outside, outside, bus, outside),
                settings,
                published,
            )
        case "host-name":
            # The name itself cannot be met (CLUSTER MEET), and leads elsewhere inside than here: it is mapped there.
            named, meet = Address(chosen.name, port), Address(chosen.inside, port)
            control = Address(chosen.address, port)
            published = tuple(dict.fromkeys((Address(chosen.gateway, port), Address(chosen.gateway, bus), control)))
            return Reach(
                NodeAddresses(named, named, control, meet, bus, named),
                _announced(chosen.name, port, bus, tls=tls),
                published,
                chosen.mapping,
            )
        case "client-address":
            settings = (("cluster-announce-ip", container), ("cluster-announce-client-ipv4", here.host))
            beside = here if chosen.address else None
            return Reach(NodeAddresses(here, beside, here, inside, bus, here), settings, (here,))
        case "same-port":
            named = here if chosen.address else Address("localhost", port)
            settings = (
                ("cluster-announce-ip", container),
                ("cluster-announce-hostname", named.host),
                ("cluster-preferred-endpoint-type", "hostname"),
            )
            beside = here if chosen.address else None
            return Reach(NodeAddresses(here, beside, here, inside, bus, named), settings, (here,))


def _announced(host: str, port: int, bus: int, *, tls: bool) -> tuple[tuple[str, str], ...]:
    return (
        ("cluster-announce-ip", host),
        ("cluster-announce-tls-port" if tls else "cluster-announce-port", str(port)),
        ("cluster-announce-bus-port", str(bus)),
        ("replica-announce-ip", host),
        ("replica-announce-port", str(port)),
    )
