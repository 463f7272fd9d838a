"""A short soak: formations with faults while they form; `scripts/soak` is the long one."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from .conftest import VERSIONS, find_server
from .scenarios import Kind, Scenario, Start, draw
from .soaking import soak

pytestmark = [pytest.mark.servers, pytest.mark.slow]

SEED = 3673
COUNT = 10
RUNS = [draw(SEED, number, VERSIONS, most=9) for number in range(COUNT)]


@pytest.mark.parametrize("scenario", RUNS, ids=lambda each: f"{each.number}-{each.start}")
def test_it_is_ready_or_names_the_right_node(scenario: Scenario, tmp_path: Path) -> None:
    find_server(scenario.version)
    outcome = soak(scenario, tmp_path)
    assert outcome.verdicts[-1] == "ready"


def test_every_start_and_every_kind_of_fault_is_among_them() -> None:
    assert {scenario.start for scenario in RUNS} == set(get_args(Start))
    assert {fault.kind for each in RUNS for faults in each.faults for fault in faults} == set(get_args(Kind))
