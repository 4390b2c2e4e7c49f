"""Run in a network namespace of its own: two candidates whose `on_promote` and `on_demote` are contrib/ha's program.
Each has an address of its own there, because both are on one machine. Writes a line for each thing that was seen."""

import json
import subprocess
from pathlib import Path

from tests.conftest import rigs
from tests.system.test_election import leader
from tools.rig import candidates
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import wait_until

PROGRAM = Path(__file__).parents[2] / "contrib/ha/virtual-address"
PATIENCE_S = 90.0
ADDRESSES = {"rig_manager_1": "10.9.9.1/24", "rig_manager_2": "10.9.8.2/24"}


def there() -> list[str]:
    found = subprocess.run(["ip", "-o", "address", "show", "dev", "lo"], capture_output=True, text=True, check=True)
    return [name for name, address in ADDRESSES.items() if f" {address} " in found.stdout]


def follows(rig: Rig, node: RigNode) -> bool:
    """Whether the other one could hand over to it."""
    told = rig.command(node, "ha", "status", "--json", timeout_s=60).stdout
    ha = json.loads(told or "null") or {}
    return ha.get("state") == "following" and bool(ha.get("connected")) and not ha["may_not_lead"]


def main() -> None:
    with rigs() as make:
        rig = make(1)
        candidates.add_candidates(rig, 2, 1, lease_s=6)
        for node in rig.nodes:
            path = node.root / "etc/cluster.json"
            own = json.loads(path.read_text())
            for what, word in (("on_promote", "up"), ("on_demote", "down")):
                own["clusterd"]["ha"][what] = [str(PROGRAM), word, ADDRESSES[node.name], "lo"]
            path.write_text(json.dumps(own))
        rig.start()
        first, second = rig.nodes
        wait_until(lambda: there() == [first.name], PATIENCE_S, "the address of who leads")
        print("first")
        wait_until(lambda: follows(rig, second), PATIENCE_S, "a candidate that may lead")
        switched = lambda: rig.command(second, "ha", "switchover", timeout_s=180).returncode == 0  # noqa: E731
        wait_until(switched, PATIENCE_S, "a switchover, once the leader knows what the other one has")
        wait_until(lambda: there() == [second.name], PATIENCE_S, "the address moves with the lead")
        print("moved")
        # A node that was killed runs no program; it does when it is back, and another one leads.
        wait_until(lambda: follows(rig, first), PATIENCE_S, "a candidate that may lead")
        candidates.kill(second)
        wait_until(lambda: there() == [first.name, second.name], PATIENCE_S, "the address of the next leader")
        rig.start(second.name)
        wait_until(lambda: there() == [first.name], PATIENCE_S, "it gives its address back")
        assert leader(rig) == first
        print("killed")


if __name__ == "__main__":
    main()
