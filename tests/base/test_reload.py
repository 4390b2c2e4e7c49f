"""What a reload takes over, and what it says waits for a restart."""

from msgspec.structs import replace

from clusterd.reload import adopt
from clusterd.settings import Settings


def test_changes_that_need_a_restart_are_named_one_by_one_and_not_taken() -> None:
    running = Settings("/var/ossec")
    cluster = replace(running.cluster, port=1517, node_name="other")
    own = replace(running.clusterd, owner="ossec", full_walk_s=60.0)
    adopted, waiting = adopt(running, replace(running, cluster=cluster, clusterd=own, pool_size=3))
    assert waiting == ["<node_name>", "<port>", "pool_size", "clusterd.owner"]
    assert (adopted.cluster, adopted.pool_size, adopted.clusterd.owner) == (running.cluster, 0, "")
    assert adopted.clusterd.full_walk_s == 60.0


def test_nothing_waits_when_nothing_of_that_kind_was_changed() -> None:
    running = Settings("/var/ossec", log_level_asked=1)
    adopted, waiting = adopt(running, Settings("/var/ossec", log_level=2))
    assert (waiting, adopted.log_level) == ([], 2)
