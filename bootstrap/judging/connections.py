"""What is wrong with ports and addresses: from what is announced, what is published, and what dialling gave."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from bootstrap.judging.agreement import Agreement
from bootstrap.judging.evidence import OUTCOME_WORDS, Dial, Evidence, Finding, Server
from bootstrap.judging.views import NodeView, seen
from bootstrap.planning.addressing import Address
from bootstrap.planning.spec import BUS_OFFSET
from bootstrap.planning.text import listing, mid_sentence

_ID_LENGTH = 40


def connections(evidence: Evidence, agreement: Agreement) -> tuple[Finding, ...]:
    """The findings about reaching nodes, from every place that was tried."""
    ids = {name: view.id for name, view in seen(evidence.views).items()}
    doubts = agreement.of("link", "flag", "unknown", "silent")
    return tuple(_Connections(evidence, ids, {name for each in doubts for name in (each.node, each.about)}).findings())


def protected(node: str, seen_as: str) -> Finding:
    """A server that turns away everybody who is not on its own machine, whoever saw it."""
    return Finding(
        node,
        "protected-mode",
        "is in protected mode, and turns away clients and replicas of other machines",
        "set a password, or `CONFIG SET protected-mode no` where nobody else can reach it",
        "protected-mode",
        evidence=(seen_as,),
    )


def one_way(evidence: Evidence, node: str) -> Iterator[str]:
    """Who is reached by a node and does not reach it, by their bus links (CLUSTER LINKS), in words."""
    views = seen(evidence.views)
    for name, told in evidence.told.items() if node in views else ():
        if told.links and told.links.get(views[node].id) == frozenset({"from"}):
            yield f"{name} has a bus link from {node}, and none to it"


@dataclass(frozen=True, slots=True)
class _Connections:
    """The evidence, the ids of the nodes that answered, and the nodes that miss others or are missed."""

    evidence: Evidence
    ids: Mapping[str, str]
    missing: Collection[str]

    def findings(self) -> Iterator[Finding]:
        down = {name for name, server in self.evidence.servers.items() if server.state != "running"}
        views = self.evidence.views.items()
        alone = {name for name, view in views if isinstance(view, NodeView) and not view.cluster_mode}
        # Of others nothing is known, not even whether they run.
        known = {*self.evidence.servers, *self.ids}
        known |= {dial.node for dial in self.evidence.dials if dial.outcome == "open"}
        for dial in self.evidence.dials:
            # A server that is down has all ports shut, and one without cluster mode has no bus: that is told once.
            if dial.node in down | alone or dial.node not in known:
                continue
            # A firewall may well keep this machine from the bus of servers elsewhere: what counts is who misses whom.
            elsewhere = dial.port == "bus" and not dial.source and dial.node not in self.evidence.servers
            if elsewhere and dial.node not in self.missing:
                continue
            if finding := self._wrong(dial):
                yield finding

    def _wrong(self, dial: Dial) -> Finding | None:
        if dial.outcome == "open":
            return self._led_elsewhere(dial)
        server = self.evidence.servers.get(dial.node)
        if is_loopback(dial.address.host) and dial.source:
            return self._loopback(dial)
        if dial.outcome == "unresolvable":
            return self._unresolvable(dial)
        if dial.beside and (stale := self._stale(dial)):
            return stale
        own_port = self._setting(dial.node, "port")
        if server is not None and server.container and (finding := _of_container(dial, server, own_port)):
            return finding
        return (self._not_bound(dial) or self._blocked(dial)) if dial.beside else self._for_clients(dial)

    def _led_elsewhere(self, dial: Dial) -> Finding | None:
        """A connection that was made, to a server that is not the one."""
        said = dial.contact.said
        if said.startswith("-DENIED"):
            return protected(dial.node, f"{dial.address}, dialled from {dial.vantage}, says {said[1:].split()[0]}")
        if said.startswith("-CERTIFICATE"):
            return self._certificate(dial)
        if dial.node not in self.ids or len(said) != _ID_LENGTH or said == self.ids[dial.node]:
            return None
        stranger = f"a node of another cluster ({said[:8]})"
        other = next((name for name, node_id in self.ids.items() if node_id == said), stranger)
        if is_loopback(dial.address.host) and dial.source:
            return self._loopback(dial)
        if _ip(dial.address.host) is None:
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

    def _certificate(self, dial: Dial) -> Finding:
        words = dial.contact.said.partition(" ")[2]
        return Finding(
            dial.node,
            "certificate-name" if "mismatch" in words.lower() else "certificate-refused",
            f"its certificate is not accepted at {dial.address}, where clients or nodes are sent",
            "make it for this address, too (subjectAltName)",
            "tls-cert-file",
            evidence=(f"{mid_sentence(words)}, dialled from {dial.vantage}",),
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

    def _not_bound(self, dial: Dial) -> Finding | None:
        """A server that does not listen at the address that it announces."""
        server = self.evidence.servers.get(dial.node)
        translated = server is not None and server.container and dial.address.host not in server.addresses
        bound = [word.removeprefix("-") for word in self._setting(dial.node, "bind").split()]
        everywhere = not {"*", "0.0.0.0", "::*", "::"}.isdisjoint(bound)  # noqa: S104
        if dial.outcome != "refused" or not bound or everywhere or translated or dial.address.host in bound:
            return None
        return Finding(
            dial.node,
            "not-bound",
            f"does not listen on {dial.address.host}, which it announces: it is bound to {listing(bound)}",
            f"let it listen there, too: `bind {' '.join(bound)} {dial.address.host}`",
            "bind",
            evidence=(str(dial),),
        )

    def _blocked(self, dial: Dial) -> Finding:
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
            evidence=(
                f"dialled from {dial.vantage}",
                *(one_way(self.evidence, dial.node) if dial.port == "bus" else ()),
            ),
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


def _of_container(dial: Dial, server: Server, own_port: str) -> Finding | None:
    """A port of a container that is not published, or published as another one; None where that is not the matter.

    Args:
        dial: what did not work.
        server: the container.
        own_port: the server's data port in the container, "" if it is not known.
    """
    port, host = dial.address.port, dial.address.host
    everything = [place for places in server.published.values() for place in places]
    if host in server.addresses or any(place.port == port for place in everything):
        return None
    bus = dial.port == "bus"
    setting = "cluster-announce-bus-port" if bus else "cluster-announce-port"
    evidence = (str(dial), f"{server.container} publishes {_published(server.published)}")
    published = server.published.get(int(own_port or 0) + (BUS_OFFSET if bus else 0), ()) if own_port else ()
    if published:
        return Finding(
            dial.node,
            "announced-port-differs",
            f"announces {'bus ' if bus else ''}port {port}, and is published as {published[0].port}",
            f"announce that: `{setting} {published[0].port}`, or publish it as {port}",
            setting,
            evidence=evidence,
        )
    if bus:
        return Finding(
            dial.node,
            "bus-port-not-published",
            f"announces the bus port {dial.address}, which is not published",
            f"publish it: `docker run -p {port}:{port}`, or announce the container's address",
            setting,
            evidence=evidence,
        )
    return Finding(
        dial.node,
        "data-port-not-published",
        f"announces {dial.address}, and that port is not published",
        f"publish it: `docker run -p {port}:{port}`",
        setting,
        evidence=evidence,
    )


def _published(published: Mapping[int, tuple[Address, ...]]) -> str:
    pairs = [f"{place} -> {port}" for port, places in sorted(published.items()) for place in places]
    return ", ".join(pairs) or "nothing"


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a text is, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine for everybody who says it."""
    ip = _ip(host)
    return host == "localhost" or (ip is not None and ip.is_loopback)


def _private(host: str) -> bool:
    ip = _ip(host)
    return ip is not None and ip.is_private
