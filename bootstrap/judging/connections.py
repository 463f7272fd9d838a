"""What is wrong with ports and addresses: from what is announced, what is published, and what dialling gave."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bootstrap.judging.evidence import OUTCOME_WORDS, Dial, Evidence, Finding, Server
from bootstrap.judging.views import NodeView, seen
from bootstrap.planning.addressing import Address

_ID_LENGTH = 40


def connections(evidence: Evidence) -> tuple[Finding, ...]:
    """The findings about reaching nodes, from every place that was tried."""
    return tuple(_Connections(evidence).findings())


@dataclass(frozen=True, slots=True)
class _Connections:
    evidence: Evidence

    def findings(self) -> Iterator[Finding]:
        down = {name for name, server in self.evidence.servers.items() if server.state != "running"}
        views = self.evidence.views.items()
        alone = {name for name, view in views if isinstance(view, NodeView) and not view.cluster_mode}
        reached = {dial.node for dial in self.evidence.dials if dial.outcome == "open"}
        for dial in self.evidence.dials:
            # A server that is down has all ports shut, and one without cluster mode has no bus: that is told once.
            if dial.node in down | alone:
                continue
            if dial.node not in self.evidence.servers and dial.node not in reached | seen(self.evidence.views).keys():
                continue
            if finding := self._wrong(dial):
                yield finding

    def _wrong(self, dial: Dial) -> Finding | None:
        if dial.outcome == "open":
            return self._led_elsewhere(dial)
        server = self.evidence.servers.get(dial.node)
        if _loopback(dial.address.host) and dial.source:
            return self._loopback(dial)
        if dial.outcome == "unresolvable":
            return self._unresolvable(dial)
        if dial.beside and (stale := self._stale(dial)):
            return stale
        if server is not None and server.container and (finding := _of_container(dial, server)):
            return finding
        return _blocked(dial) if dial.beside else self._for_clients(dial)

    def _led_elsewhere(self, dial: Dial) -> Finding | None:
        """A connection that was made, to a server that is not the one."""
        said = dial.contact.said
        if said.startswith("-DENIED"):
            return Finding(
                dial.node,
                "protected-mode",
                "is in protected mode, and turns away clients and replicas of other machines",
                "set a password, or `CONFIG SET protected-mode no` where nobody else can reach it",
                "protected-mode",
                evidence=(f"{dial.address}, dialled from {dial.vantage}, says {said[1:].split()[0]}",),
            )
        names = {view.id: name for name, view in seen(self.evidence.views).items()}
        expected = next((node_id for node_id, name in names.items() if name == dial.node), None)
        if expected is None or len(said) != _ID_LENGTH or said == expected:
            return None
        other = names.get(said, f"a node of another cluster ({said[:8]})")
        if _loopback(dial.address.host) and dial.source:
            return self._loopback(dial)
        if self._by_name(dial):
            return Finding(
                dial.node,
                "announce-host-elsewhere",
                f"announces {dial.address.host}, which leads to another server",
                f"let {dial.address.host} lead to it everywhere, or announce another name or address",
                "cluster-announce-hostname" if self._hostname(dial) else "cluster-announce-ip",
                evidence=(f"{dial.address} is {other}, dialled from {dial.vantage}",),
            )
        return Finding(
            dial.node,
            "leads-elsewhere",
            f"its address {dial.address} leads to another server",
            "correct what it announces; after a restart with another address, let it be met again: `CLUSTER MEET`",
            "cluster-announce-ip",
            evidence=(f"{dial.address} is {other}, dialled from {dial.vantage}",),
        )

    def _loopback(self, dial: Dial) -> Finding:
        return Finding(
            dial.node,
            "announced-loopback",
            f"announces {dial.address.host}, which leads every other node to itself",
            "announce an address that the others reach: `cluster-announce-ip`",
            "cluster-announce-ip",
            evidence=(str(dial),),
        )

    def _unresolvable(self, dial: Dial) -> Finding:
        hostname = self._hostname(dial)
        return Finding(
            dial.node,
            "announce-host-unresolvable",
            f"announces {dial.address.host}, which cannot be resolved everywhere",
            f"map it: `--add-host {dial.address.host}:host-gateway`, or announce an address",
            "cluster-announce-hostname" if hostname else "cluster-announce-ip",
            evidence=(str(dial),),
        )

    def _for_clients(self, dial: Dial) -> Finding:
        server = self.evidence.servers.get(dial.node)
        inside = server is not None and dial.address.host in server.addresses
        what = "its container's address" if inside else f"{dial.address.host}"
        return Finding(
            dial.node,
            "announced-container-address" if inside or _private(dial.address.host) else "announced-unreachable",
            f"sends clients to {what}, which {OUTCOME_WORDS[dial.outcome]} from here",
            "announce an address for clients here too (`cluster-announce-client-ipv4`, Valkey 8.1), or let the client "
            "map addresses: see `--client`",
            "cluster-announce-ip",
            evidence=(str(dial),),
        )

    def _stale(self, dial: Dial) -> Finding | None:
        """An address that the node had before it was restarted."""
        server = self.evidence.servers.get(dial.node)
        now = self._addresses_now(dial.node, server)
        if not now or dial.address.host in now:
            return None
        return Finding(
            dial.node,
            "stale-address",
            f"is still looked for at {dial.address.host}, and is at {now[0]} now",
            f"let it be met there again: `CLUSTER MEET {now[0]} {dial.address.port}`, and give it a fixed address",
            "cluster-announce-ip",
            evidence=(str(dial),),
        )

    def _addresses_now(self, node: str, server: Server | None) -> tuple[str, ...]:
        announced = self._setting(node, "cluster-announce-ip")
        if announced:
            return (announced,)
        return server.addresses if server is not None else ()

    def _setting(self, node: str, key: str) -> str:
        told = self.evidence.told.get(node)
        return told.settings.get(key, "") if told is not None else ""

    def _hostname(self, dial: Dial) -> bool:
        return self._setting(dial.node, "cluster-announce-hostname") == dial.address.host

    def _by_name(self, dial: Dial) -> bool:
        try:
            ipaddress.ip_address(dial.address.host)
        except ValueError:
            return True
        return False


def _of_container(dial: Dial, server: Server) -> Finding | None:
    """A port of a container that is not published, or published as another one; None where that is not the matter."""
    port, host = dial.address.port, dial.address.host
    if host in server.addresses:
        return None
    places = {place for places in server.published.values() for place in places}
    if any(place.port == port for place in places):
        return None
    others = [place for places in server.published.values() for place in places]
    if dial.port == "bus":
        return Finding(
            dial.node,
            "bus-port-not-published",
            f"announces the bus port {dial.address}, which is not published",
            f"publish it: `docker run -p {port}:{port}`, or announce the container's address",
            "cluster-announce-bus-port",
            evidence=(str(dial), f"{server.container} publishes {_published(server.published)}"),
        )
    data = [place for place in others if place.port < 10000 + min((each.port for each in others), default=0)]
    if data:
        return Finding(
            dial.node,
            "announced-port-differs",
            f"announces port {port}, and is published as {data[0].port}",
            f"announce that: `cluster-announce-port {data[0].port}`, or publish it as {port}",
            "cluster-announce-port",
            evidence=(str(dial), f"{server.container} publishes {_published(server.published)}"),
        )
    return Finding(
        dial.node,
        "data-port-not-published",
        f"announces {dial.address}, and that port is not published",
        f"publish it: `docker run -p {port}:{port}`",
        "cluster-announce-port",
        evidence=(str(dial), f"{server.container} publishes {_published(server.published)}"),
    )


def _published(published: Mapping[int, tuple[Address, ...]]) -> str:
    pairs = [f"{place} -> {port}" for port, places in sorted(published.items()) for place in places]
    return ", ".join(pairs) or "nothing"


def _blocked(dial: Dial) -> Finding:
    kind = "bus port" if dial.port == "bus" else "data port"
    why = {
        "silent": "a firewall drops what is sent there",
        "refused": "nothing listens there, or a firewall rejects",
        "unreachable": "no route leads there",
    }.get(dial.outcome, "it cannot be reached")
    return Finding(
        dial.node,
        f"{dial.port}-port-blocked",
        f"its {kind} {dial.address} {OUTCOME_WORDS[dial.outcome]}: {why}",
        f"let the nodes reach {dial.address}: see to the firewall, and that something listens there",
        evidence=(f"dialled from {dial.vantage}",),
    )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return False
