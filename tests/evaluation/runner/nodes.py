"""A Ray cluster of two nodes on the loopback, in a process of its own: says its address, then takes orders.

Each is a line: `remove` ends the second node as a lost machine ends, `add` puts another
one in its place; each is answered when done.
"""

from __future__ import annotations

import os
import sys

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on the loopback alone
    "RAY_raylet_start_wait_time_s": "300",  # where others compute on this machine, too
    "RAY_agent_register_timeout_ms": "300000",
}

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 80_000_000}


def say(line: str) -> None:
    """To whoever started this."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Serves until its input ends."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        second = cluster.add_node(**NODE)
        say(cluster.address)
        for line in sys.stdin:
            if line.strip() == "remove":
                cluster.remove_node(second, allow_graceful=False)
            else:
                second = cluster.add_node(**NODE)
            say("done")
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
