"""What importing the package costs, and what its plugin costs a run of pytest that does not use it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from scripts._bench.failures import Failure
from scripts._bench.formation import environment
from scripts._bench.results import spread

_COLLECT = ("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider")
CASES: Mapping[str, tuple[str, Sequence[str]]] = {
    "pass": ("", ("-c", "pass")),
    "import bootstrap": ("pass", ("-c", "import bootstrap")),
    "bootstrap.cluster": ("pass", ("-c", "import bootstrap; bootstrap.cluster")),
    "bootstrap.blocking.cluster": ("pass", ("-c", "import bootstrap; bootstrap.blocking.cluster")),
    "pytest": ("", _COLLECT),
    "pytest with the plugin": ("pytest", (*_COLLECT, "-p", "pytest_valkey_bootstrap")),
}
"""Case -> what it is compared with, and the interpreter's arguments."""


def run_imports(rounds: int, tell: Callable[[str], None]) -> list[str]:
    """The lines of the table: milliseconds; all cases by turns."""
    took: dict[str, list[float]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory(prefix="valkey-bench-") as folder:
        Path(folder, "test_nothing.py").write_text("def test_nothing():\n    pass\n")
        # One round more: the first one reads all files from the disk, and compiles them.
        for turn in range(rounds + 1):
            for case, (_, arguments) in CASES.items():
                seconds = _seconds(arguments, folder)
                if turn:
                    took[case].append(1000 * seconds)
            if turn and turn % 10 == 0:
                tell(f"round {turn} of {rounds}")
    lines = [f"{'milliseconds':28} {'whole':22} {'more':>6}  than"]
    for case, (base, _) in CASES.items():
        more = f"{median(took[case]) - median(took[base]):6.1f}  {base}" if base else ""
        lines.append(f"{case:28} {spread(took[case])!s:22} {more}".rstrip())
    return lines


def _seconds(arguments: Sequence[str], folder: str) -> float:
    # No other plugin that happens to be installed is to be measured.
    variables = {**environment(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    took = time.monotonic() - began
    if done.returncode:
        raise Failure(f"`python {' '.join(arguments)}` fails: {done.stderr.strip()[-200:]}", "run it by itself")
    return took
