"""Where servers run, behind one seam (see `bootstrap.runtimes.base`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bootstrap.runtimes.base import Runtime


def runtime_for(kind: str, *, state_root: str | None = None, server: str | None = None, owned: bool = False) -> Runtime:
    """The runtime of a kind; ``auto`` takes the best there is.

    Args:
        kind: ``auto`` or ``process``.
        state_root: see `bootstrap.ClusterSpec`.
        server: see `bootstrap.ClusterSpec`.
        owned: what it creates belongs to this process.
    """
    from bootstrap.runtimes.process import ProcessRuntime

    assert kind in ("auto", "process"), kind
    return ProcessRuntime(state_root, server=server, owned=owned)
