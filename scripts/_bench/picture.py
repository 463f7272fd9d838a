"""Draws a series: seconds until ready against nodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from scripts._bench.formation import Case, Tool
from scripts._bench.results import FLOORS, Results, Spread, spread, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS: Mapping[Tool, tuple[str, str, str]] = {
    # name, colour, marker
    "ours": ("valkey-bootstrap", "#0b6e4f", "o"),
    "valkey-cli": ("valkey-cli --cluster create", "#b5482a", "s"),
}
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def draw(results: Results, path: Path) -> None:
    """Draw all cases side by side; the file's ending (svg, png ...) decides its form."""
    import matplotlib as mpl

    mpl.use("agg")
    # The same bytes for the same results.
    mpl.rcParams.update({"svg.hashsalt": "valkey-bootstrap", "font.size": 10})
    import matplotlib.pyplot as plt

    cases = results.cases
    figure, axes = plt.subplots(
        1, len(cases), figsize=(5.2 * len(cases), 4.2), squeeze=False, sharey=True, layout="constrained"
    )
    for panel, case in zip(axes[0], cases, strict=True):
        _draw_case(panel, results, case)
    axes[0][0].set_ylabel("seconds until ready")
    axes[0][0].legend(loc="upper left", frameon=False, fontsize=9)
    figure.supxlabel(_caption(results), fontsize=8, color="#555555")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    plt.close(figure)


def _draw_case(panel: Axes, results: Results, case: Case) -> None:
    panel.set_title(title(case, results.about), fontsize=11)
    panel.set_xscale("log")
    panel.set_yscale("log")
    for tool in LOOKS:
        _draw_tool(panel, results, case, tool)
    floor = FLOORS[case]
    panel.axhline(floor, color="#555555", linestyle="--", linewidth=1)
    panel.annotate(
        f"the servers' own delay, {floor:g} s", (0.98, floor), xycoords=("axes fraction", "data"),
        xytext=(0, -11), textcoords="offset points", ha="right", fontsize=8, color="#555555",
    )  # fmt: skip
    _label(panel, results.nodes(case))


def _draw_tool(panel: Axes, results: Results, case: Case, tool: Tool) -> None:
    name, color, marker = LOOKS[tool]
    points: dict[int, Spread] = {}
    for nodes in results.nodes(case):
        found = spread(run.ready for run in results.of(case, nodes, tool) if run.good)
        if found is not None:
            points[nodes] = found
    if not points:
        return
    medians = [point.median for point in points.values()]
    below = [point.median - point.least for point in points.values()]
    above = [point.most - point.median for point in points.values()]
    panel.errorbar(
        list(points), medians, yerr=[below, above], label=name, color=color, marker=marker, markersize=5, capsize=3,
        linewidth=1.5, elinewidth=1,
    )  # fmt: skip


def _label(panel: Axes, nodes: list[int]) -> None:
    """Plain numbers where something was measured, no powers of ten."""
    panel.set_xlabel("nodes")
    panel.set_xticks(nodes, [str(count) for count in nodes])
    low, high = panel.get_ylim()
    low, high = min(low, 0.35), max(high, 10)
    ticks = [tick for tick in TICKS if low <= tick <= high]
    panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_ylim(low, high)
    panel.minorticks_off()
    panel.grid(visible=True, color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


def _caption(results: Results) -> str:
    about = results.about
    cli = f", valkey-cli {about['valkey_cli']}" if "valkey_cli" in about else ""
    return (
        f"Median of {about['runs']}, whiskers from least to most. Servers: Valkey {about['server']}{cli}, "
        f"valkey-bootstrap {about['valkey_bootstrap']}; {about['cores']} cores, {about['date'][:10]}"
    )
