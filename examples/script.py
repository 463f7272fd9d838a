"""How evenly do keys spread over a cluster, and does the number of primaries matter?"""

from bootstrap import blocking

KEYS = 1000


def sizes(nodes: int) -> list[int]:
    """How many keys each primary of a new cluster gets."""
    with blocking.cluster(nodes=nodes, replicas=0) as cluster, cluster.client() as client:
        with client.pipeline() as pipe:
            for number in range(KEYS):
                pipe.set(f"user:{number}", number)
            pipe.execute()
        return [client.dbsize(target_nodes=node) for node in client.get_primaries()]


for nodes in (3, 5):
    print(f"{nodes} primaries: {sorted(sizes(nodes))}")
