"""Replies as people read them."""

from __future__ import annotations

import pytest

from bootstrap.cli.operating import reply_lines


@pytest.mark.parametrize(
    ("reply", "lines"),
    [
        ("OK", ["OK"]),
        ("", [""]),
        (7, ["7"]),
        (None, ["(nil)"]),
        ([], ["(empty)"]),
        ("one\ntwo\n", ["one", "two"]),
        (["a", None, ["b", 2], []], ["1) a", "2) (nil)", "3) 1) b", "   2) 2", "4) (empty)"]),
        (["one\ntwo"], ["1) one", "   two"]),
    ],
)
def test_a_reply_is_told_line_by_line(reply: object, lines: list[str]) -> None:
    assert list(reply_lines(reply)) == lines
