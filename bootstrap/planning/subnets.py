"""Which small subnet a cluster's own network takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network

from bootstrap.errors import Conflict
from bootstrap.planning.slots import key_slot

POOL = IPv4Network("172.28.0.0/15")
"""Where subnets are taken from: private addresses (RFC 1918) at the upper end of what engines deal out themselves,
which begin at 172.17 and take 65536 addresses for each network."""

SECOND_POOL = IPv4Network("10.214.0.0/15")
"""Where they are taken from when the first pool is full, or routed elsewhere as a whole."""

_FEWEST_FIXED = 32


@dataclass(frozen=True, slots=True)
class Network:
    """The network of a cluster.

    Nodes have fixed addresses in its lower half. Containers that join it are given addresses of the upper half: an
    engine deals out the address of a node that is stopped, and the node could not start again.

    Args:
        name: its name at the engine.
        subnet: such as ``172.28.0.0/26``.
        gateway: the first address, the engine's machine itself.
        clients: the upper half.
    """

    name: str
    subnet: str
    gateway: str
    clients: str

    def address(self, index: int) -> str:
        """The fixed address of a node.

        Raises:
            Conflict: the lower half has no address left for this index.
        """
        subnet = ip_network(self.subnet)
        # The first two are the network's own and its gateway's.
        room = subnet.num_addresses // 2 - 2
        if not 0 <= index < room:
            raise Conflict(
                f"the network {self.name} ({self.subnet}) has no address for a node {index}: its fixed addresses are "
                f"those of the nodes 0 to {room - 1}",
                code="network-full",
                hint="remove a node first, whose index is free again then, or create a larger cluster of another name",
            )
        return str(subnet[index + 2])


def network_name(cluster: str) -> str:
    """``valkey-net``."""
    return f"{cluster}-net"


def make_network(cluster: str, subnet: IPv4Network) -> Network:
    """The network of a cluster in a subnet."""
    _, clients = subnet.subnets(prefixlen_diff=1)
    return Network(network_name(cluster), str(subnet), str(subnet[1]), str(clients))


def choose_network(cluster: str, nodes: int, taken: Sequence[str]) -> Network:
    """The first free subnet with room for twice the nodes; where to begin depends on the cluster's name.

    So clusters that are made at once seldom want the same one, and a cluster that is made again has the same
    addresses again.

    Raises:
        Conflict: none is free.
    """
    fixed = max(_FEWEST_FIXED, 1 << (2 * nodes + 1).bit_length())
    prefix = 32 - fixed.bit_length()
    occupied = [network for network in map(ip_network, taken) if isinstance(network, IPv4Network)]
    for pool in (POOL, SECOND_POOL):
        count = 1 << (prefix - pool.prefixlen)
        size = pool.num_addresses // count
        for step in range(count):
            first = pool[((key_slot(cluster) + step) % count) * size]
            subnet = IPv4Network((int(first), prefix))
            if not any(subnet.overlaps(other) for other in occupied):
                return make_network(cluster, subnet)
    raise Conflict(
        f"no subnet of {POOL} or {SECOND_POOL} is free for the network of {nodes} nodes",
        code="no-free-subnet",
        hint="remove networks that nobody needs: `docker network prune`",
    )
