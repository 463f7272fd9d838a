"""What is told to the user."""

from __future__ import annotations


class Failure(Exception):
    """Nothing can be measured here, or the servers are not what they should be.

    Args:
        message: what is wrong, in one line.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint
