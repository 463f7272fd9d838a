"""A lock on a cluster's name that all users of an engine share: a volume, which an engine makes only once.

Making a volume that exists gives the one that is there, with its own labels: whose mark it carries has the lock.
(Container names are unique, too, but a container needs an image; networks of one name may be several.) Nobody lets go
for a command that was killed, so a lock tells whose it is, and one whose owner has ended counts for nothing.
"""

from __future__ import annotations

import json
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from docker import APIClient
from docker.errors import NotFound

from bootstrap.errors import BootstrapError, Conflict
from bootstrap.runtimes import daemons
from bootstrap.runtimes.engine.failures import engine_errors

MARK = "valkey-bootstrap.claim"
OWNER = "valkey-bootstrap.owner"
OLDEST_SECONDS = 3600
"""After this long a lock of another machine, whose processes cannot be asked for, counts as forgotten."""

_held: set[str] = set()


def take(api: APIClient, name: str) -> str:
    """Take the lock; the mark to let go with.

    Raises:
        Conflict: somebody else has it.
    """
    mark = secrets.token_hex(8)
    owner = json.dumps(daemons.owner())
    with engine_errors(f"lock {name}"):
        for _ in range(2):
            api.create_volume(volume_of(name), labels={MARK: mark, OWNER: owner})
            # The reply itself has no labels for one that an engine remembers from before its restart.
            found = _look(api, name)
            if found is None:
                continue  # let go of this very moment
            if _marked(found) == mark:
                _held.add(mark)
                return mark
            if not _forgotten(found):
                break
            with suppress(NotFound):
                api.remove_volume(volume_of(name))
    raise Conflict(
        f'another command is at work on "{name}"',
        code="busy",
        hint=f"wait for it, or choose another --name; if it is gone: `docker volume rm {volume_of(name)}`",
    )


def let_go(api: APIClient, name: str, mark: str) -> None:
    """Let go of the lock, if it is still ours."""
    _held.discard(mark)
    # An engine that is gone cannot be told; then the lock counts as forgotten, since nobody holds its mark.
    with suppress(BootstrapError), engine_errors(f"unlock {name}"), suppress(NotFound):
        found = _look(api, name)
        if found is not None and _marked(found) == mark:
            api.remove_volume(volume_of(name))


def volume_of(name: str) -> str:
    """The volume that is the lock; no volume of a node is called so."""
    return f"valkey-bootstrap.claim.{name}"


def _look(api: APIClient, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = api.inspect_volume(volume_of(name))
    except NotFound:
        return None
    return found


def _marked(volume: dict[str, Any]) -> str:
    return str((volume.get("Labels") or {}).get(MARK, ""))


def _forgotten(volume: dict[str, Any]) -> bool:
    """Whether the owner of a lock has ended, or let go of it without the engine's hearing so."""
    mark = _marked(volume)
    try:
        owner = json.loads((volume.get("Labels") or {}).get(OWNER, "null"))
        mine = {**daemons.owner(), "started": None} == {**owner, "started": None}
        if (mine and mark not in _held) or daemons.owner_gone(owner):
            return True
        made = datetime.fromisoformat(volume["CreatedAt"])
    except (TypeError, ValueError, KeyError, AttributeError):
        # Not a lock as this version makes them: whoever made it must take it away.
        return False
    return (datetime.now(UTC) - made).total_seconds() > OLDEST_SECONDS
