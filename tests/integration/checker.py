"""A client that writes and reads all the while, and tells at the end whether the cluster forgot what it had promised.

    with Checker(ports) as checker:
        ...                                  # whatever is done to the cluster
        verdict = checker.verdict()
    assert (verdict.lost, verdict.stale, verdict.errors) == (0, 0, 0)

It works in a process of its own, so that it does not share Python's lock with what it watches. Each of its threads has
keys of its own, which nobody else writes, and each write a value of its own: so it knows what every read may give. A
write that was not acknowledged may have happened or not, now or later; it counts for nothing, and reading it is right.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from redis.cluster import RedisCluster
from redis.exceptions import RedisError

END_SECONDS = 90
READ_AGAIN_SECONDS = 30
"""How long a key that cannot be read in the end is asked for again."""


@dataclass(frozen=True)
class Verdict:
    """What it saw.

    Args:
        writes: acknowledged ones.
        reads: answered ones.
        lost: keys whose last acknowledged write was not there in the end.
        stale: reads that gave something older than the last acknowledged write.
        errors: requests that failed, the client's own retries included.
        unread: keys that could not be read in the end.
        p50, p99, slowest: milliseconds of a request.
        examples: some of what is wrong, in words.
    """

    writes: int
    reads: int
    lost: int
    stale: int
    errors: int
    unread: int
    p50: float
    p99: float
    slowest: float
    examples: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether every promise was kept; requests may have failed."""
        return not (self.lost or self.stale or self.unread)


class Checker:
    """The process, for a block.

    Args:
        ports: of some nodes on 127.0.0.1.
        keys: how many in all, spread over the slots.
        threads: that use them.
        options: of redis-py's cluster client, such as ``password``, ``ssl`` and ``ssl_ca_certs``.
    """

    def __init__(self, ports: Sequence[int], *, keys: int = 2000, threads: int = 3, **options: Any) -> None:
        asked = {"ports": list(ports), "keys": keys, "threads": threads, "options": options}
        self._asked = json.dumps(asked) + "\n"
        self._verdict: Verdict | None = None

    def __enter__(self) -> Self:
        root = Path(__file__).parents[2]
        argv = [sys.executable, "-m", "tests.integration.checker"]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(self._asked)
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "ready\n", "the checker could not write its keys"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def verdict(self) -> Verdict:
        """End it, and hear what it saw; every key was written once before the block began."""
        if self._verdict is None:
            told, _ = self._process.communicate("stop\n", timeout=END_SECONDS)
            found = json.loads(told.splitlines()[-1])
            self._verdict = Verdict(**{**found, "examples": tuple(found["examples"])})
        return self._verdict


@dataclass
class _Known:
    """What is known of a key: the last acknowledged value, and all that were written without an answer."""

    acknowledged: int = 0
    perhaps: set[int] = field(default_factory=set)


@dataclass
class _User:
    """One thread's keys, and what it saw."""

    client: Any
    names: list[str]
    seed: int
    stop: threading.Event
    known: dict[str, _Known] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("writes", "reads", "stale", "errors"), 0))
    taken: list[float] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)
    number: int = 0

    def begin(self) -> None:
        """Write every key once."""
        for name in self.names:
            self.known[name] = _Known()
            self.write(name)

    def run(self) -> None:
        """Until it is told to stop."""
        draw = random.Random(self.seed)
        while not self.stop.is_set():
            name = draw.choice(self.names)
            if draw.random() < 0.5:
                self.write(name)
            else:
                self.read(name)

    def write(self, name: str) -> None:
        """One write of a value that is written once only."""
        self.number += 1
        known = self.known[name]
        began = time.perf_counter()
        try:
            self.client.set(name, self.number)
        except (RedisError, OSError) as error:
            known.perhaps.add(self.number)
            self._failed(f"SET {name}: {error!r}")
        else:
            known.acknowledged = self.number
            self.counts["writes"] += 1
        self.taken.append(time.perf_counter() - began)

    def read(self, name: str) -> None:
        """One read, and what it should have given."""
        began = time.perf_counter()
        try:
            found = self.client.get(name)
        except (RedisError, OSError) as error:
            self._failed(f"GET {name}: {error!r}")
        else:
            self.counts["reads"] += 1
            if not self.right(name, found):
                self.counts["stale"] += 1
                self._example(f"GET {name} gave {found!r} after {self.known[name].acknowledged} was acknowledged")
        self.taken.append(time.perf_counter() - began)

    def right(self, name: str, found: bytes | None) -> bool:
        """Whether a read may give this."""
        known = self.known[name]
        value = int(found or 0)
        return value == known.acknowledged or value in known.perhaps

    def last(self) -> tuple[int, int]:
        """Read every key in the end: how many are lost, and how many cannot be read."""
        lost = unread = 0
        end = time.monotonic() + READ_AGAIN_SECONDS
        for name in self.names:
            while True:
                try:
                    found = self.client.get(name)
                except (RedisError, OSError) as error:
                    if time.monotonic() < end:
                        time.sleep(0.1)
                        continue
                    unread += 1
                    self._example(f"{name} cannot be read: {error!r}")
                else:
                    if not self.right(name, found):
                        lost += 1
                        self._example(f"{name} is {found!r}, and {self.known[name].acknowledged} was acknowledged")
                break
        return lost, unread

    def _failed(self, words: str) -> None:
        self.counts["errors"] += 1
        self._example(words)

    def _example(self, words: str) -> None:
        if len(self.examples) < 5:
            self.examples.append(words)


def main() -> None:
    """The process: its task comes as a line, and the word to stop as another."""
    asked = json.loads(sys.stdin.readline())
    stop = threading.Event()
    users = [
        _User(
            RedisCluster(host="127.0.0.1", port=asked["ports"][0], socket_timeout=10, **asked["options"]),
            [f"checker-{thread}-{number}" for number in range(asked["keys"] // asked["threads"])],
            thread,
            stop,
        )
        for thread in range(asked["threads"])
    ]
    for user in users:
        user.begin()
    threads = [threading.Thread(target=user.run) for user in users]
    for thread in threads:
        thread.start()
    print("ready", flush=True)  # noqa: T201 - this is how it talks
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    ends = [user.last() for user in users]
    taken = sorted(1000 * each for user in users for each in user.taken)
    verdict = Verdict(
        **{key: sum(user.counts[key] for user in users) for key in ("writes", "reads", "stale", "errors")},
        lost=sum(lost for lost, _ in ends),
        unread=sum(unread for _, unread in ends),
        p50=round(taken[len(taken) // 2], 2),
        p99=round(taken[len(taken) * 99 // 100], 2),
        slowest=round(taken[-1], 2),
        examples=tuple(example for user in users for example in user.examples),
    )
    print(json.dumps(asdict(verdict)))  # noqa: T201 - this is how it talks


if __name__ == "__main__":
    main()
