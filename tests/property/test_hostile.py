"""Readers of what others say raise what they promise, whatever that is."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.formation.base import ServerError, read_look

from . import hostile

PROJECT = Path(__file__).parents[2]
quick = settings(deadline=None, max_examples=150)

ID = st.sampled_from(["a" * 40, "b" * 40, "-", "", "é" * 40])
ADDRESS = st.sampled_from(
    ["127.0.0.1:7000@17000", ":0@0", "[::1]:1@2,name", "x:y@z", "1.2.3.4:99999@1", "h:1@1,,shard-id=x"]
)
FLAG = st.sampled_from(["myself", "master", "slave", "fail", "handshake", "noaddr", "nonsense", ""])
FLAGS = st.lists(FLAG, max_size=4)
NUMBER = st.sampled_from(["0", "1", "-", "-1", "x", "9" * 30])
LINK = st.sampled_from(["connected", "disconnected", "?"])
SLOTS = st.sampled_from(["0-16383", "5", "5-1", "-1-2", "99999", "[5->-" + "b" * 40 + "]", "[5", "a-b", "0-99999999"])


@st.composite
def lines(draw: st.DrawFn) -> str:
    """Something like a line of CLUSTER NODES."""
    words = [draw(ID), draw(ADDRESS), ",".join(draw(FLAGS)), draw(ID), "0", draw(NUMBER), draw(NUMBER), draw(LINK)]
    words += draw(st.lists(SLOTS, max_size=3))
    return " ".join(words[: draw(st.integers(0, len(words)))] if draw(st.booleans()) else words)


TEXT = st.one_of(st.text(max_size=200), st.lists(lines(), max_size=4).map("\n".join))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
REPLY = st.recursive(
    st.none()
    | st.integers()
    | st.text(max_size=20)
    | st.just(ServerError("ERR x"))
    | st.sampled_from(["127.0.0.1", "node", "0-5"]),
    lambda inner: st.lists(inner, max_size=5),
    max_leaves=12,
)


@pytest.mark.parametrize("reader", hostile.TEXTS)
@quick
@given(text=TEXT)
def test_texts(reader: str, text: str) -> None:
    hostile.TEXTS[reader](text)


@pytest.mark.parametrize("reader", hostile.REPLIES)
@quick
@given(reply=REPLY)
def test_replies(reader: str, reply: object) -> None:
    hostile.REPLIES[reader](reply)


@quick
@given(replies=st.lists(REPLY, min_size=8, max_size=8))
def test_looks_of_any_replies(replies: list[object]) -> None:
    hostile.judged(read_look(replies))


@pytest.mark.slow
def test_guided_by_coverage() -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris has no wheel for this machine")
    done = subprocess.run(
        [sys.executable, "-P", "scripts/_fuzz.py", "--seconds", "10"],
        cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("nothing was found") == len(hostile.TEXTS) + 1


@quick
@given(document=JSON)
def test_records_and_specifications_of_any_json(document: object) -> None:
    for reader in (hostile.record, hostile.specification):
        reader(json.dumps(document))
