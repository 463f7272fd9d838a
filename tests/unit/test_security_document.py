"""SECURITY.md names tests for what it promises: they exist."""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
NAMED = re.compile(r"`(test_\w+\.py)(?:::(\w+))?`")


def test_every_named_test_exists() -> None:
    named = NAMED.findall((PROJECT / "SECURITY.md").read_text())
    assert len(named) > 10
    for file, function in named:
        (path,) = (PROJECT / "tests").rglob(file)
        assert not function or re.search(rf"def {function}\(", path.read_text()), f"{file}::{function}"


def test_every_promise_names_one() -> None:
    _, _, table = (PROJECT / "SECURITY.md").read_text().partition("## Promises")
    rows = [line.split("|") for line in table.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 8
    # "the same" is the test of the row above.
    assert [row[1] for row in rows if "test_" not in row[2] and "the same" not in row[2]] == []
