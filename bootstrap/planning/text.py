"""Small pieces of English shared by everything that words a plan, a reason or a result."""

from __future__ import annotations

import re
from collections.abc import Sequence


def plural(count: int, one: str, many: str = "") -> str:
    """``1 primary``, ``2 primaries``: the count with its noun; `many` defaults to `one` with an s."""
    return f"{count} {one if count == 1 else many or one + 's'}"


_CONTROLS = re.compile(r"[^\S\r\n\t ]|[\x00-\x08\x0e-\x1f\x7f-\x9f]")


def harmless(text: str) -> str:
    """Somebody else's text without what would control a terminal: such characters as people write them."""
    return _CONTROLS.sub(lambda match: repr(match[0])[1:-1], text) if _CONTROLS.search(text) else text


def mid_sentence(words: str) -> str:
    """Somebody else's sentence as a part of ours: without a capital, unless that is an abbreviation's, and a stop."""
    words = words.rstrip(".")
    return words[:1].lower() + words[1:] if words[1:2].islower() else words


def listing(items: Sequence[str], most: int = 5, *, separator: str = ", ") -> str:
    """``a, b, c and 4 more``: at most `most` items by name."""
    shown = separator.join(items[:most])
    return f"{shown} and {len(items) - most} more" if len(items) > most else shown
