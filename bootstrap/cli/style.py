"""Colours, marks and columns for one stream."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import click


class Style:
    """What one stream can show: colour by `choice`, NO_COLOR, FORCE_COLOR and terminal; marks by its encoding."""

    def __init__(self, stream: TextIO, choice: str = "auto") -> None:
        self.stream = stream
        self.color = wants_color(stream, choice)
        encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
        plain = not encoding.startswith("utf")
        self.done, self.failed, self.bullet = ("ok", "x", "*") if plain else ("✓", "✗", "•")

    def paint(self, text: str, **styles: object) -> str:
        """Text in a colour, where there are colours."""
        return click.style(text, **styles) if self.color else text  # type: ignore[arg-type]

    def write(self, text: str = "") -> None:
        """A line."""
        self.stream.write(text + "\n")
        self.stream.flush()


def wants_color(stream: TextIO, choice: str) -> bool:
    """Whether a stream is to be coloured; see no-color.org and force-color.org."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def stdout(choice: str = "auto") -> Style:
    """The style of stdout."""
    return Style(sys.stdout, choice)


def stderr(choice: str = "auto") -> Style:
    """The style of stderr."""
    return Style(sys.stderr, choice)


def program() -> str:
    """How this program was called, so that what it prints to copy works where it is pasted."""
    if named := os.environ.get("VALKEY_BOOTSTRAP_PROGRAM"):
        return named
    return "python -m bootstrap" if Path(sys.argv[0]).name == "__main__.py" else "valkey-bootstrap"


def in_this_program(hint: str, state_root: str | None = None) -> str:
    """A hint of the library with its commands as they are called here, on this state root if a flag gave one."""
    root = f" --state-root {shlex.quote(state_root)}" if state_root else ""
    return re.sub(r"`valkey-bootstrap ([^`]*)`", lambda match: f"`{program()} {match[1]}{root}`", hint)


def columns(rows: Sequence[Sequence[str]], *, indent: str = "", headed: bool = True) -> list[str]:
    """Rows with aligned columns, two blanks apart; columns that are empty (below their heading) are left out.

    Not a wrapping table: what is copied from a terminal or piped to a program must stay on its line.
    """
    kept = [at for at in range(len(rows[0])) if any(row[at] for row in rows[headed:])]
    widths = {at: max(len(row[at]) for row in rows) for at in kept}
    return [(indent + "  ".join(row[at].ljust(widths[at]) for at in kept)).rstrip() for row in rows]
