"""The Python in README.md and in docs: what is whole runs and prints what is shown, the rest compiles."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from dataclasses import dataclass

import pytest

from .conftest import find_server
from .reader import PROJECT, Reader
from .servers import Servers
from .test_tls import server_with_tls

pytestmark = pytest.mark.servers

DOCUMENTS = ("README.md", "docs/api.md", "docs/scaling.md")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n^```\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
BY_TIMING = ("Timeline()", "show(event)", "timeout=1.5")
"""Snippets whose output tells how far servers were, or how long they took: another machine prints other lines."""


@dataclass(frozen=True, slots=True)
class Snippet:
    """A block of Python, and the output below it."""

    document: str
    line: int
    code: str
    output: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def whole(self) -> bool:
        """It imports what it uses."""
        return isinstance(ast.parse(self.code).body[0], ast.Import | ast.ImportFrom)


def snippets(document: str) -> list[Snippet]:
    text = (PROJECT / document).read_text()
    return [
        Snippet(document, text.count("\n", 0, found.start()) + 1, found[1], found[2] or "")
        for found in BLOCK.finditer(text)
    ]


ALL = [snippet for document in DOCUMENTS for snippet in snippets(document)]


def plain(text: str) -> list[str]:
    """Lines, without what is another one each time: random names, ports, seconds."""
    text = re.sub(r"vb-[0-9a-f]{8}x", "NAME", text)
    text = re.sub(r"(?<=127\.0\.0\.1:)\d+|(?<='port': )\d+|(?<![\d.])\d+\.\d+(?![\d.])", "N", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_there_are_some() -> None:
    found = Counter((each.document, each.whole) for each in ALL)
    # Three are lines for a program that has begun elsewhere; reading them has compiled them.
    assert found == {
        ("README.md", True): 1,
        ("README.md", False): 1,
        ("docs/api.md", True): 11,
        ("docs/api.md", False): 2,
        ("docs/scaling.md", True): 1,
    }


@pytest.mark.parametrize("snippet", [each for each in ALL if each.whole], ids=str)
def test_it_runs_and_prints_what_is_shown(reader: Reader, snippet: Snippet) -> None:
    code = snippet.code
    servers = Servers(reader.folder)
    if "tls=True" in code:
        (reader.folder / "bin" / "valkey-server").symlink_to(server_with_tls("redis-7.0"))
    try:
        for port in sorted(set(re.findall(r"\b700\d\b", code))):
            code = code.replace(port, str(servers.start(binary=find_server("valkey-9.1")).port))
        done = reader.run(sys.executable, "-W", "error", "-c", code)
    finally:
        servers.close()
    assert (done.returncode, done.stderr) == (0, "")
    shown, printed = plain(snippet.output), plain(done.stdout)
    if shown[-1:] == ["..."]:
        del shown[-1], printed[len(shown) :]
    if not any(words in code for words in BY_TIMING):
        assert printed == shown or not shown
