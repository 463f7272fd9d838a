"""Nonsense for what reads what others say, guided by coverage: input that finds new ways through is varied further."""
# ruff: noqa: INP001 - a script of a folder of scripts

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import Process
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["bootstrap"]):
    from tests.property import hostile

SEEDS = {
    "nodes": [f"{'a' * 40} 127.0.0.1:7000@17000,name myself,master - 0 0 1 connected 0-5460 [7->-{'b' * 40}]\n"],
    "info": ["# Cluster\r\ncluster_state:ok\r\ncluster_my_epoch:1\r\nrole:slave\r\nmaster_link_status:up\r\n"],
    "record": [json.dumps({"format_version": 1, "name": "x", "nodes": [], "server": {"name": "", "path": ""}})],
    "specification": [json.dumps({"name": "x", "nodes": "6", "settings": {"save": ""}, "zones": "a,b"})],
    "words": ["valkey/valkey:9.1-alpine", "172.17.0.1\thost-gateway.valkey-bootstrap", "[::1]:7000"],
    "look": ["server_name:valkey\r\ncluster_enabled:1\x1f\x1f\x1f\x1fcluster_state:ok\x1f\x1f[]\x1f[]"],
    "replies": ['[[0, 16383, ["127.0.0.1", 7000, "a"]], null]'],
}
"""What sensible input looks like, to begin with."""


def reply(text: str) -> None:
    """Nested replies, written as JSON."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return
    for read in hostile.REPLIES.values():
        read(found)


TARGETS: dict[str, Callable[[str], None]] = {**hostile.TEXTS, "replies": reply}


def fuzz(target: str, seconds: int) -> None:
    """One target in this process, which ends when something was found or the time is up."""
    corpus = Path(tempfile.mkdtemp(prefix=f"valkey-bootstrap-fuzz-{target}-"))
    for index, seed in enumerate(SEEDS[target]):
        (corpus / str(index)).write_text(seed)

    def one(data: bytes) -> None:
        TARGETS[target](data.decode(errors="replace"))

    options = {
        "max_total_time": seconds,
        "verbosity": 0,
        "print_final_stats": 1,
        "artifact_prefix": f"{corpus.parent}/valkey-bootstrap-{target}-",
    }
    atheris.Setup([sys.argv[0], str(corpus), *(f"-{key}={value}" for key, value in options.items())], one)
    atheris.Fuzz()


def main() -> int:
    """Fuzz, side by side; the number of targets where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    given = parser.parse_args()
    wanted = given.targets or list(TARGETS)
    if unknown := set(wanted) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    working = {target: Process(target=fuzz, args=(target, given.seconds)) for target in wanted}
    for process in working.values():
        process.start()
    failed = []
    for target, process in working.items():
        process.join(given.seconds + 60)
        if process.is_alive():
            process.kill()
        if process.exitcode != 0:
            failed.append(target)
        sys.stdout.write(f"{target}: {'something was found' if process.exitcode else 'nothing was found'}\n")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
