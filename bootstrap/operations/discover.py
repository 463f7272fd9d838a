"""Finds the nodes of a cluster that somebody else runs, from the addresses of some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bootstrap.formation.base import Unreachable
from bootstrap.formation.clients import open_clients
from bootstrap.judging.views import Silent, seen
from bootstrap.operations.deployment import Access, Deployment, Node, deployment_of_others
from bootstrap.planning.addressing import Address, NodeAddresses
from bootstrap.planning.spec import BUS_OFFSET

_WHY: Mapping[str, tuple[str, str]] = {
    # Why a node could not be asked -> the error's code, and what to do.
    "login": ("login-failed", "give the password with --password-file"),
    "certificate": ("certificate", "trust who signed it with --tls-ca FILE, and give addresses that it is for"),
    "tls": ("tls", "leave out --tls, or give the port for TLS"),
    "unreachable": ("unreachable", "give the address of a running node of the cluster; if it wants TLS, add --tls"),
}


async def discover(seeds: Sequence[Address], access: Access, *, every_seed: bool = False) -> Deployment:
    """The deployment of the cluster that the seeds know; nodes are named by their addresses, primaries first.

    Args:
        seeds: some of its nodes.
        access: how nodes are reached.
        every_seed: keep seeds that do not answer, are no cluster nodes or have the id of another one.

    Raises:
        Unreachable: no seed could be asked, with the reason of each.
    """
    async with open_clients(access.connect, {str(seed): seed for seed in seeds}) as clients:
        views = await clients.look()
    nodes = seen(views)
    if not nodes:
        reasons = {
            name: view.reason if isinstance(view, Silent) else "is not in cluster mode" for name, view in views.items()
        }
        name, reason = next(iter(reasons.items()))
        codes = {view.code for view in views.values() if isinstance(view, Silent)}
        code, hint = next((why for kind, why in _WHY.items() if kind in codes), _WHY["unreachable"])
        raise Unreachable(
            f"{name} {reason}" if len(reasons) == 1 else "none of the given nodes could be asked",
            code=code,
            nodes=reasons,
            hint=hint,
        )
    found: dict[str, tuple[tuple[bool, tuple[object, ...], str], Address, int]] = {}
    for name, view in nodes.items():
        for peer in view.peers.values():
            if peer.handshake or "noaddr" in peer.flags:
                continue
            # A node's own line may lack its address, which it learns from others; the seed's is the one that worked.
            mine = peer.id == view.id
            address = Address.parse(name) if mine else peer.address
            rank = (peer.role == "replica", peer.slots, str(address))
            if mine or peer.id not in found:
                found[peer.id] = (rank, address, peer.bus_port or address.port + BUS_OFFSET)
    ordered = sorted(found.values(), key=lambda each: each[0])
    if every_seed:
        taken = {address for _, address, _ in ordered}
        ordered += [((True, (), str(seed)), seed, seed.port + BUS_OFFSET) for seed in seeds if seed not in taken]
    found_nodes = tuple(_node(index, address, bus) for index, (_, address, bus) in enumerate(ordered))
    return deployment_of_others(str(seeds[0]), access, found_nodes)


def _node(index: int, address: Address, bus_port: int) -> Node:
    addresses = NodeAddresses(address, address, address, address, bus_port)
    return Node(str(address), index, address.host, "", addresses)
