"""Every command of a creation in order, for ``--dry-run -v``: played, not listed, so that it cannot differ."""

from __future__ import annotations

from bootstrap.judging.pace import pace_for
from bootstrap.judging.simulation import play
from bootstrap.judging.steps import Replicate
from bootstrap.planning.plan import CONFIG_FILE, Plan
from bootstrap.planning.slots import covering_key


def all_commands(plan: Plan) -> list[dict[str, str]]:
    """``{node, command}`` of each: starting the servers, opening the fast window, forming, proving, restoring."""
    from bootstrap.formation.prove import PROOF_KEY, dial_commands, inside_dials, proof_commands
    from bootstrap.formation.window import DEFAULTS, own_window, settings_of

    ours = bool(plan.creations)
    found: list[tuple[str, str]] = []
    if ours:
        found += [
            (n.name, f"{n.container.program if n.container else plan.server.path} {n.setting('dir')}/{CONFIG_FILE}")
            for n in plan.nodes
        ]
    window = own_window(plan).opened if ours else settings_of(pace_for(len(plan.nodes)), ours=False)
    keys = [key for key in window if plan.server.has(key)]
    found += [(n.name, f"CONFIG SET {key} {window[key]}") for n in plan.nodes for key in keys]
    for step in play(plan):
        # Node ids are made by the servers; until then the primary's name stands for its id.
        text = f"CLUSTER REPLICATE <id of {step.primary}>" if isinstance(step, Replicate) else " ".join(step.command)
        found.append((step.node, text))
    found += [(n.name, " ".join(command)) for n in plan.primaries for command in proof_commands(n.slots)]
    if plan.network is not None:
        slots = {n.name: n.slots for n in plan.primaries}
        found += [
            (source, " ".join(command))
            for source, targets in inside_dials(plan, plan.layout).items()
            for _, address in targets
            for command in dial_commands(covering_key(*slots[source][0], PROOF_KEY), address)
        ]
    found += [(n.name, f"CONFIG SET {key} {n.setting(key, DEFAULTS[key])}") for n in plan.nodes for key in keys]
    return [{"node": node, "command": command} for node, command in found]
