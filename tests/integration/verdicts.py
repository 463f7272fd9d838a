"""What the doctor prints, compared with `docs/troubleshooting.md`, which is written from here.

``VALKEY_BOOTSTRAP_WRITE_DOCS=1 pytest -n 0 tests/integration/test_doctor*.py`` writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "troubleshooting.md"

_SECTION = "### {cause}: {title}\n\n```\n{printed}\n```\n"

_PORT = 6379


def plain(printed: str, names: Mapping[str, str], ports: list[int]) -> str:
    """The text without what differs from run to run: ports, ids, process ids, versions, times."""
    text = printed.replace("python -m bootstrap", "valkey-bootstrap")
    for index, port in enumerate(ports):
        text = re.sub(rf"\b{port}\b", str(_PORT + index), text)
        text = re.sub(rf"\b{port + 10000}\b", str(_PORT + index + 10000), text)
    for name, instead in names.items():
        text = text.replace(name, instead)
    # Which addresses containers get depends on who else is there.
    inside = list(dict.fromkeys(re.findall(r"\b172\.28\.0\.\d+\b", text)))
    text = re.sub(r"\b172\.28\.0\.\d+\b", lambda match: f"172.28.0.{inside.index(match[0]) + 2}", text)
    text = re.sub(r"\b[0-9a-f]{40}\b", "1f0c" * 10, text)
    text = re.sub(r"\bpid \d+|-CONT \d+", lambda match: match[0].split()[0] + " 4711", text)
    text = re.sub(r"\d+:[MSC] \d+ \w+ \d{4} [\d:.]+ ", "4711:M 01 Jan 2026 12:00:00.000 ", text)
    return re.sub(r"\b([0-9a-f]{8})\b(?=[ ,)]| at)", lambda m: m[1] if m[1].isdigit() else "1f0c1f0c", text)


def finding_in(printed: str, cause: str) -> str:
    """The lines of one finding, with the first line of what was seen: how many there are depends on the moment."""
    blocks = [block for block in printed.split("\n\n") if f"({cause}" in block.splitlines()[0]]
    assert blocks, f"{cause} is not among:\n{printed}"
    return shortened(blocks[0].rstrip())


def shortened(block: str) -> str:
    """Without the further lines of what was seen."""
    lines = block.splitlines()
    seen = [line for line in lines if line.startswith("    seen ")]
    return "\n".join(line for line in lines if line not in seen[1:])


def check(cause: str, title: str, printed: str) -> None:
    """Compare a printed finding with its section, or write the section."""
    section = _SECTION.format(cause=cause, title=title, printed=printed)
    text = DOCUMENT.read_text()
    pattern = re.compile(rf"^### {re.escape(cause)}: .*?^```\n.*?^```\n", re.MULTILINE | re.DOTALL)
    if os.environ.get("VALKEY_BOOTSTRAP_WRITE_DOCS"):
        text = pattern.sub(lambda _: section, text) if pattern.search(text) else f"{text.rstrip()}\n\n{section}"
        DOCUMENT.write_text(text)
        return
    found = pattern.search(text)
    assert found is not None, f"docs/troubleshooting.md has nothing about {cause}"
    assert found[0] == section
