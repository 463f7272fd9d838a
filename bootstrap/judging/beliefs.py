"""What is wrong with what nodes believe: identities, strangers, handshakes, slots, epochs, and who stands where."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from bootstrap.judging.agreement import Agreement
from bootstrap.judging.evidence import Evidence, Finding
from bootstrap.judging.views import seen
from bootstrap.planning.slots import SLOTS, expand, merge, slots_text
from bootstrap.planning.text import listing, plural


def identities(evidence: Evidence) -> Iterator[Finding]:
    """Nodes with one id, and one node under two addresses."""
    first: dict[str, str] = {}
    for name, view in seen(evidence.views).items():
        other = first.setdefault(view.id, name)
        if other == name:
            continue
        runs = [evidence.told[each].info.get("run_id") for each in (name, other) if each in evidence.told]
        if len(runs) == 2 and runs[0] == runs[1]:
            yield Finding(name, "same-server", f"is the same server as {other}, under another address", "give it once")
            continue
        yield Finding(
            name,
            "same-node-id",
            f"has the node id of {other}: its nodes.conf is a copy",
            "stop it, remove its nodes.conf and its data, start it again, and let it join anew",
            "nodes.conf",
            evidence=(f"both call themselves {view.id}",),
        )


def strangers(evidence: Evidence) -> Iterator[Finding]:
    """Nodes that others know and that are none of these."""
    nodes = seen(evidence.views)
    if len(nodes) < len(evidence.views):
        # It may be one of those that did not answer: their ids are not known.
        return
    ids = {view.id for view in nodes.values()}
    ours = {name: where.meet for name, where in evidence.nodes.items()}
    for name, view in nodes.items():
        for peer in view.peers.values():
            if peer.id in ids or peer.handshake:
                continue
            line = f"{name} knows {peer.id[:8]} at {peer.address} ({','.join(sorted(peer.flags))})"
            if peer.faults:
                mend = f"let every node forget it: `CLUSTER FORGET {peer.id}`"
                yield Finding("", "lost-node", f"a lost node is remembered: {peer.id[:8]}", mend,
                              evidence=(line,))  # fmt: skip
                continue
            reused = [each for each, where in ours.items() if where == peer.address]
            words = f"a node of another cluster has joined: {peer.id[:8]} at {peer.address}"
            if reused:
                words += f", the address of {reused[0]}"
            mend = f"reset it (`CLUSTER RESET HARD` on {peer.address}) and forget it here: `CLUSTER FORGET {peer.id}`"
            yield Finding("", "foreign-node", words, mend, evidence=(line,))


def handshakes(evidence: Evidence, blamed: Collection[str]) -> Iterator[Finding]:
    """Introductions that come to nothing."""
    before = seen(evidence.before)
    # Who cannot be reached is told once, and not again by everybody who tries.
    shut = {where.meet for name, where in evidence.nodes.items() if name in blamed}
    for name, view in seen(evidence.views).items():
        if name not in before or name in blamed:
            continue
        earlier = {peer.address for peer in before[name].peers.values() if peer.handshake}
        pending = {peer.address for peer in view.peers.values() if peer.handshake}
        for address in sorted((pending & earlier) - shut):
            lines = (str(d) for d in evidence.dials if d.address.host == address.host and d.outcome != "open")
            yield Finding(
                name,
                "handshake",
                f"does not get beyond the handshake with {address}",
                f"let it reach {address} and its bus port, and be reached from there",
                evidence=tuple(lines),
            )


def slots(evidence: Evidence, agreement: Agreement) -> Iterator[Finding]:
    """Slots without a primary, with two, or half moved."""
    nodes = seen(evidence.views)
    owned = expand({pair for view in nodes.values() for pair in view.myself.slots})
    missing = frozenset(range(SLOTS)) - owned
    ids = {view.id: name for name, view in nodes.items()}
    # Of nodes that did not answer here: the others may well reach them, and then nothing is wrong with their slots.
    absent: set[int] = set()
    dead: dict[str, set[int]] = {}
    for view in nodes.values():
        for peer in view.peers.values():
            if peer.slots and peer.id not in ids and (lost := expand(peer.slots) & missing):
                absent |= lost
                if peer.faults:
                    dead.setdefault(str(peer.address), set()).update(lost)
    missing -= absent
    for address, theirs in dead.items():
        yield Finding(
            "",
            "slots-down",
            f"{address}, which does not answer, has {slots_text(theirs)}",
            "bring it back, or let a replica of it take over: `CLUSTER FAILOVER TAKEOVER`",
        )
    if nodes and missing:
        yield Finding(
            "",
            "slots-uncovered",
            f"no primary has {slots_text(missing)}",
            f"give them to one: `CLUSTER ADDSLOTSRANGE {_arguments(missing)}`",
        )
    for doubt in agreement.of("coverage"):
        if "both claim" in doubt.text:
            mend = "let the one that is not to have them give them up: `CLUSTER DELSLOTSRANGE`"
            yield Finding("", "slots-twice", doubt.text, mend)
    for name, view in nodes.items():
        # A replica repeats what its primary has open.
        leader = nodes.get(ids.get(view.myself.primary or "", ""))
        if view.myself.open_slots and (leader is None or leader.myself.open_slots != view.myself.open_slots):
            numbers = [item.strip("[]").split("-")[0] for item in view.myself.open_slots]
            yield Finding(
                name,
                "open-slots",
                f"has {plural(len(numbers), 'slot')} half moved: {listing(numbers, 5)}",
                "finish what was begun, and nothing else: `valkey-bootstrap rebalance --threshold 100`",
                evidence=tuple(view.myself.open_slots),
            )


def _arguments(slots: frozenset[int]) -> str:
    return " ".join(f"{first} {last}" for first, last in merge(slots))


def epochs(evidence: Evidence, agreement: Agreement) -> Iterator[Finding]:
    """The trap of equal epochs: who stored a raised epoch of a node ignores what it says once it is a replica."""
    nodes = seen(evidence.views)
    for doubt in agreement.of("belief"):
        holder, node = nodes[doubt.node], nodes[doubt.about]
        peer = holder.peers[node.id]
        primary = holder.peers.get(node.myself.primary or "")
        if node.myself.role != "replica" or peer.role != "primary" or primary is None or peer.epoch <= primary.epoch:
            continue
        names = {view.id: name for name, view in nodes.items()}
        leader = names.get(primary.id, primary.id[:8])
        yield Finding(
            doubt.about,
            "epoch-trap",
            "is a replica, and is for ever shown as a primary without slots: a higher epoch of it was stored before",
            f"raise the epoch of its primary over {peer.epoch}: `CLUSTER BUMPEPOCH` on {leader}, as often as needed",
            "config epoch",
            evidence=(f"{doubt.node} has epoch {peer.epoch} for it, and {primary.epoch} for {leader}",),
        )


def topology(evidence: Evidence, agreement: Agreement) -> Iterator[Finding]:
    """Shards that a failure takes down as a whole."""
    layout = agreement.layout
    if layout is None:
        return
    serving = [shard for shard in layout.shards if shard.slots]
    if 0 < len(serving) < 3:
        yield Finding(
            "",
            "few-primaries",
            f"{plural(len(serving), 'primary', 'primaries')} cannot elect a successor when one is lost",
            "use 3 primaries or more where failovers matter",
            level="warning",
        )
    hosts = _hosts(evidence)
    if len(set(hosts.values())) < 2:
        return
    for shard in serving:
        for replica in shard.replicas:
            if hosts.get(replica) is not None and hosts.get(replica) == hosts.get(shard.primary):
                yield Finding(
                    replica,
                    "shares-host",
                    f"is on the same machine as its primary {shard.primary}: {hosts[replica]}",
                    "let it follow a primary of another machine: `CLUSTER REPLICATE ID`",
                    level="warning",
                )


def _hosts(evidence: Evidence) -> Mapping[str, str]:
    """Where nodes are: as declared, and for servers of others by their addresses, which is all there is."""
    if evidence.places:
        return {name: place.host for name, place in evidence.places.items()}
    return {name: where.meet.host for name, where in evidence.nodes.items()}
