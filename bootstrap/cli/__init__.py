"""The command line: reads flags, environment and files, shows progress, and maps errors to exit codes."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    from bootstrap.cli.app import run

    return run(argv)
