"""Which of the clusters that were found is meant."""

from __future__ import annotations

from collections.abc import Sequence

from bootstrap.errors import RuntimeUnavailable, UsageError
from bootstrap.planning.text import listing
from bootstrap.runtimes import Found


def only(found: Sequence[Found], name: str | None) -> Found:
    """The one cluster that was found; raises `UsageError` where there are several."""
    if len(found) == 1:
        return found[0]
    if name is not None:
        kinds = listing([each.record.runtime for each in found])
        raise UsageError(
            f'there are {len(found)} clusters "{name}": {kinds}',
            code="which-cluster",
            hint=f"choose one with --runtime {found[0].record.runtime} or --runtime {found[1].record.runtime}",
        )
    raise UsageError(
        f"there are {len(found)} clusters: {listing([each.record.name for each in found])}",
        code="which-cluster",
        hint="choose one with --name",
    )


def refuse_unasked(unasked: Sequence[RuntimeUnavailable]) -> None:
    """Raise where something may be in an engine that cannot be asked: "there is none" would be a guess."""
    if unasked:
        raise unasked[0]
