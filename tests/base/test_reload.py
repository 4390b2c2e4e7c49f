"""Which settings a reload makes effective, and which it reports as waiting for a restart."""

from msgspec.structs import replace

from clusterd.reload import adopt
from clusterd.role import NodeRole
from clusterd.settings import ClusterBlock, Settings


def test_changes_that_need_a_restart_are_named_one_by_one_and_not_taken() -> None:
    running = Settings("/var/ossec")
    cluster = replace(running.cluster, port=1517, node_name="other")
    own = replace(running.clusterd, owner="ossec", full_walk_s=60.0)
    adopted, waiting = adopt(running, replace(running, cluster=cluster, clusterd=own, pool_size=3))
    assert waiting == ["<node_name>", "<port>", "pool_size", "clusterd.owner"]
    assert (adopted.cluster, adopted.pool_size, adopted.clusterd.owner) == (running.cluster, 0, "")
    assert adopted.clusterd.full_walk_s == 60.0


def test_places_of_the_store_wait_for_a_restart_and_other_limits_do_not() -> None:
    running = Settings("/var/ossec")
    limits = replace(running.clusterd.limits, store_connections=7, string_bytes=4096)
    adopted, waiting = adopt(running, replace(running, clusterd=replace(running.clusterd, limits=limits)))
    assert waiting == ["clusterd.limits.store_connections"]
    assert adopted.clusterd.limits == replace(running.clusterd.limits, string_bytes=4096)


def test_nothing_waits_when_nothing_of_that_kind_was_changed() -> None:
    running = Settings("/var/ossec", log_level_asked=1)
    adopted, waiting = adopt(running, Settings("/var/ossec", log_level=2))
    assert (waiting, adopted.log_level) == ([], 2)


def test_role_that_was_written_into_the_configuration_waits_for_nothing() -> None:
    block = ClusterBlock(node_type="worker", nodes=("a",))
    running = Settings("/var/ossec", cluster=block).with_role(NodeRole(3, "master", 3, "b:1516"))
    edited = Settings("/var/ossec", cluster=replace(block, node_type="master", nodes=("b",), port=99))
    adopted, waiting = adopt(running, edited.with_role(running.role))
    assert waiting == ["<port>"]
    assert (adopted.is_master, adopted.cluster) == (True, running.cluster)
    assert adopted.role_text == "master (term 3)"
    assert adopt(adopted, edited.with_role(running.role))[1] == ["<port>"], "said each time"
