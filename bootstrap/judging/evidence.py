"""What is known about a cluster when somebody asks what is wrong with it: values only, gathered elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bootstrap.judging.views import Views
from bootstrap.planning.addressing import Address, NodeAddresses
from bootstrap.planning.placement import Place

Outcome = Literal["open", "refused", "silent", "unreachable", "unresolvable"]
"""How an attempt to connect ended; ``silent``: no answer in time, as behind a firewall that drops."""

Port = Literal["data", "bus"]

OUTCOME_WORDS: Mapping[Outcome, str] = {
    "open": "answers",
    "refused": "refuses connections",
    "silent": "does not answer",
    "unreachable": "cannot be routed to",
    "unresolvable": "cannot be resolved",
}


@dataclass(frozen=True, slots=True)
class Contact:
    """What one attempt to connect gave: how it ended, and what was said there.

    Args:
        outcome: how it ended.
        said: the server's answer to ``CLUSTER MYID``: its node id, or an error with its code in front
            (``-NOAUTH ...``); "" where nothing was asked or said.
    """

    outcome: Outcome
    said: str = ""


@dataclass(frozen=True, slots=True)
class Dial:
    """One attempt to connect: to which node's which port, from where, and what came of it.

    Args:
        node: the node whose address was dialled.
        port: which of its ports.
        address: the address as it is announced, or as others know it.
        vantage: the place, for people.
        contact: what came of it.
        source: the node in whose place it was dialled; "" for a place of no node.
        beside: the place sees the network as the servers do. Otherwise it is one for clients.
    """

    node: str
    port: Port
    address: Address
    vantage: str
    contact: Contact
    source: str = ""
    beside: bool = True

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        return self.contact.outcome

    def __str__(self) -> str:
        return f"{self.address} {OUTCOME_WORDS[self.outcome]}, dialled from {self.vantage}"


ServerState = Literal["running", "paused", "stopped", "missing"]


@dataclass(frozen=True, slots=True)
class Server:
    """What the runtime says of one server, whatever the server says itself.

    Args:
        state: ``paused`` is frozen: it runs, and does nothing.
        detail: the state in words, such as ``exited with 137``.
        container: its container's name, "" for a process.
        addresses: the container's addresses now.
        published: port of the container -> addresses of the engine's machine that lead to it.
        names: host names that the container was told, with their addresses.
        log: the end of its log.
    """

    state: ServerState
    detail: str = ""
    container: str = ""
    addresses: tuple[str, ...] = ()
    published: Mapping[int, tuple[Address, ...]] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    log: str = ""


@dataclass(frozen=True, slots=True)
class Testimony:
    """What one node says beyond its view.

    Args:
        info: fields of INFO.
        settings: settings by name; secrets are not among them.
        secrets: settings that hold one -> a mark that is equal for equal secrets of one gathering, "" for none.
        links: ids of nodes -> the directions of its bus links to them (``to``, ``from``); None if it cannot tell.
        refused: command -> the reply, of those that were refused.
    """

    info: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, frozenset[str]] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known, by node name.

    Args:
        views: the last look.
        before: a look some time before, empty if there was none: what is the same in both is not passing.
        nodes: the addresses that each node is known to have.
        told: what each node says beyond its view.
        servers: what the runtime says; nodes of which it knows nothing are left out.
        places: where the nodes are, where that is declared.
        dials: every attempt to connect.
        untried: what could not be tried from here, in words.
        announced: where clients are to be sent for a node, as far as that is known.
        expected: settings that the configuration gives, by node; empty for servers of others.
        cluster: the name of a cluster of ours, "" for others'.
    """

    views: Views
    dials: tuple[Dial, ...] = ()
    before: Views = field(default_factory=dict)
    nodes: Mapping[str, NodeAddresses] = field(default_factory=dict)
    told: Mapping[str, Testimony] = field(default_factory=dict)
    servers: Mapping[str, Server] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    untried: tuple[str, ...] = ()
    announced: Mapping[str, Address] = field(default_factory=dict)
    expected: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    cluster: str = ""


Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Args:
        node: whose fault it is; "" for the cluster as a whole.
        cause: a stable name.
        text: what is wrong, in words, without the node's name.
        mend: what to do about it: a command, a flag, a setting.
        setting: the guilty setting, "" where there is none.
        evidence: what shows it, one line each.
        level: a ``warning`` does not keep the cluster from working.
    """

    node: str
    cause: str
    text: str
    mend: str = ""
    setting: str = ""
    evidence: tuple[str, ...] = ()
    level: Level = "error"

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "node": self.node or None,
            "cause": self.cause,
            "level": self.level,
            "text": self.text,
            "setting": self.setting or None,
            "evidence": list(self.evidence),
            "mend": self.mend or None,
        }
