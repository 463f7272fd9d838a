"""What all tests share."""

from __future__ import annotations

import signal

import pytest

# Whoever runs the tests in the background may ignore these, and programs that tests start would inherit that.
for _signum, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, _handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"  # redis-py's client needs it
