"""Logging for -vv: every event of the library as a line on stderr; only the command line configures structlog."""

from __future__ import annotations

import logging
from typing import TextIO


def configure(stream: TextIO) -> None:
    """Send the ``valkey_bootstrap`` logger to a stream."""
    import structlog

    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(colors=stream.isatty()),
            ],
        )
    )
    logger = logging.getLogger("valkey_bootstrap")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
