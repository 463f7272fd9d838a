"""What reads what others say, and what that may do with nonsense: raise what is named here, and nothing else.

Shared by the tests with Hypothesis and by `scripts/fuzz`, which is guided by coverage.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from bootstrap.diagnosis.asking import read_testimony
from bootstrap.errors import SpecError
from bootstrap.formation.base import read_look
from bootstrap.judging.agreement import agree, conforms
from bootstrap.judging.causes import diagnose
from bootstrap.judging.evidence import Evidence
from bootstrap.judging.pace import read_glance
from bootstrap.judging.silence import cause_in_log
from bootstrap.judging.views import NodeView, make_view, parse_info
from bootstrap.planning.addressing import Address
from bootstrap.planning.site import server_of_tag
from bootstrap.planning.spec import parse_spec
from bootstrap.runtimes.engine.archives import host_in
from bootstrap.runtimes.engine.labels import GENERATION, MEMBER, RECORD, read_record
from bootstrap.runtimes.engine.netns import _read_hosts
from bootstrap.runtimes.engine.sidecar import read_sign
from bootstrap.runtimes.records import load_record

INFO = {"server_name": "valkey", "valkey_version": "9.1.2", "role": "master", "cluster_enabled": "1"}
ID = "a" * 40


def judged(view: object) -> None:
    """A view that was made of nonsense is judged like any other."""
    if isinstance(view, NodeView):
        views = {"a": view, "b": view}
        agreement = agree(views)
        if agreement.layout is not None:
            conforms(agreement.layout, agreement.layout, exact=True)
        diagnose(Evidence(views, before=views))


def look(texts: list[str]) -> None:
    """All replies to a look, as text."""
    texts = (texts + [""] * 8)[:8]
    judged(read_look(texts))


def nodes(text: str) -> None:
    """CLUSTER NODES of an otherwise sensible server."""
    try:
        judged(make_view(INFO, {"cluster_state": "ok", "cluster_my_epoch": "1"}, text, [], []))
    except ValueError:
        return


def slots(reply: Any) -> None:
    """CLUSTER SLOTS of an otherwise sensible server."""
    line = f"{ID} 127.0.0.1:7000@17000 myself,master - 0 0 1 connected 0-16383\n"
    try:
        judged(make_view(INFO, {"cluster_state": "ok", "cluster_my_epoch": "1"}, line, reply, reply))
    except ValueError:
        return


def info(text: str) -> None:
    """INFO, CLUSTER INFO and what is read of them at a glance."""
    parse_info(text)
    try:
        read_glance(text, text)
    except ValueError:
        return


def testimony(reply: Any) -> None:
    """What nodes say of themselves."""
    read_testimony([reply, reply, reply], b"salt")


def record(text: str) -> None:
    """A record, in a file or in labels."""
    with suppress(ValueError):
        load_record(text, runtime="fuzz", folder="")
    with suppress(ValueError):
        read_record({RECORD: text}, [], runtime="fuzz")
    with suppress(ValueError):
        read_record(None, [{RECORD: text}], runtime="fuzz")
    with suppress(ValueError):
        read_record(None, [{RECORD: text, MEMBER: text}], runtime="fuzz")
    with suppress(ValueError):
        read_record({RECORD: text}, [{MEMBER: text}], runtime="fuzz", renewals=[{GENERATION: text[:4], RECORD: text}])


def specification(text: str) -> None:
    """What people write into a file."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(found, dict):
        return
    try:
        parse_spec(found)
    except SpecError:
        return


def words(text: str) -> None:
    """What single words are read as."""
    server_of_tag(text)
    host_in(text, "name")
    _read_hosts(text.splitlines())
    read_sign(text)
    cause_in_log(text)
    try:
        Address.parse(text)
    except ValueError:
        return


TEXTS: Mapping[str, Callable[[str], None]] = {
    "nodes": nodes,
    "info": info,
    "record": record,
    "specification": specification,
    "words": words,
    "look": lambda text: look(text.split("\x1f")),
}
REPLIES: Mapping[str, Callable[[Any], None]] = {"slots": slots, "testimony": testimony}
