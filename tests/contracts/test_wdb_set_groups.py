"""`set-agent-groups`: wdb.md 3.2 and 3.20."""

import json
import time

import pytest

from tests.contracts.helpers import (
    add_agent,
    add_agents,
    add_groups,
    agent,
    compact,
    group_columns,
    group_hash,
    memberships,
    put,
    set_groups,
    within,
)
from tools.rig.wdb_client import WdbClient

SET_FAILED = b"err An error occurred during the set of the groups"


def priorities(*groups: str) -> list[tuple[str, int]]:
    return [(group, place) for place, group in enumerate(groups)]


@pytest.fixture
def groups(db: WdbClient) -> None:
    """Groups default, linux, web, db and agents 1 to 3."""
    add_groups(db, "linux", "web", "db")
    add_agents(db, 1, 2, 3)


pytestmark = pytest.mark.usefixtures("groups")


@pytest.mark.parametrize(
    "argument",
    [
        '{"mode":"append"}',
        '{"data":[]}',
        "{}",
        '{"mode":1,"data":[]}',
        '{"mode":"append","data":{}}',
        '{"mode":"append","data":"x"}',
        '{"mode":null,"data":[]}',
        '{"mode":"append","data":null}',
    ],
)
def test_mode_and_data_are_required(db: WdbClient, argument: str) -> None:
    assert db.raw(f"global set-agent-groups {argument}") == b"err Invalid JSON data, missing required fields"


def test_an_unknown_mode_is_named(db: WdbClient) -> None:
    for mode in ("merge", "Override", "", "a mode with a name of more than thirty-two characters"):
        answer = db.raw(f"global set-agent-groups {compact({'mode': mode, 'data': []})}")
        assert answer == f"err Invalid mode '{mode}' in set_agent_groups command".encode()


@pytest.mark.parametrize("mode", ["override", "append", "empty_only", "remove"])
def test_no_items_are_no_error(db: WdbClient, mode: str) -> None:
    assert db.raw(f'global set-agent-groups {{"mode":"{mode}","sync_status":"synced","data":[]}}') == b"ok"


def test_sync_status_is_synced_unless_given(db: WdbClient) -> None:
    assert set_groups(db, "override", 1, ["web"], sync_status="syncreq") == b"ok"
    assert group_columns(db, 1) == ("web", group_hash("web"), "syncreq")
    assert set_groups(db, "append", 1, ["db"]) == b"ok"
    assert group_columns(db, 1) == ("web,db", group_hash("web", "db"), "synced")


def test_a_python_client_s_spaces_and_a_padded_id_are_understood(db: WdbClient) -> None:
    text = '{"mode": "append", "sync_status": "syncreq", "data": [{"id": 001, "groups": ["web", "default"]}]}'
    assert db.raw(f"global set-agent-groups {text}") == b"ok"
    assert memberships(db, 1) == priorities("web", "default")


# The four modes.


def test_override_replaces_all_memberships(db: WdbClient) -> None:
    set_groups(db, "override", 1, ["default", "linux"])
    assert set_groups(db, "override", 1, ["web", "db", "default"]) == b"ok"
    assert memberships(db, 1) == priorities("web", "db", "default")
    assert group_columns(db, 1) == ("web,db,default", "6d9091db", "synced")


def test_override_with_no_groups_leaves_none_and_no_default(db: WdbClient) -> None:
    set_groups(db, "override", 1, ["default"], sync_status="syncreq")
    assert set_groups(db, "override", 1, []) == b"ok"
    assert memberships(db, 1) == []
    assert group_columns(db, 1) == (None, None, "synced")


def test_append_goes_on_after_the_highest_priority(db: WdbClient) -> None:
    assert set_groups(db, "append", 1, ["web"]) == b"ok"
    assert set_groups(db, "append", 1, ["linux", "db"]) == b"ok"
    assert memberships(db, 1) == priorities("web", "linux", "db")
    assert set_groups(db, "remove", 1, ["linux"]) == b"ok"
    assert set_groups(db, "append", 1, ["default"]) == b"ok"
    assert memberships(db, 1) == [("web", 0), ("db", 2), ("default", 3)]
    assert group_columns(db, 1)[:2] == ("web,db,default", "6d9091db")


def test_appending_a_group_the_agent_has_moves_it_to_the_end(db: WdbClient) -> None:
    set_groups(db, "override", 1, ["default", "linux"])
    assert set_groups(db, "append", 1, ["default"]) == b"ok"
    assert memberships(db, 1) == [("linux", 1), ("default", 2)]
    assert group_columns(db, 1)[:2] == ("linux,default", "3896ccb4")


def test_a_group_named_twice_counts_where_it_is_last(db: WdbClient) -> None:
    assert set_groups(db, "override", 1, ["web", "db", "web"]) == b"ok"
    assert memberships(db, 1) == [("db", 1), ("web", 2)]
    assert group_columns(db, 1)[:2] == ("db,web", group_hash("db", "web"))


def test_empty_only_assigns_to_an_agent_without_groups(db: WdbClient) -> None:
    assert set_groups(db, "empty_only", 1, ["web", "db"], sync_status="syncreq") == b"ok"
    assert memberships(db, 1) == priorities("web", "db")
    assert group_columns(db, 1) == ("web,db", group_hash("web", "db"), "syncreq")


def test_empty_only_skips_an_agent_with_groups(db: WdbClient) -> None:
    set_groups(db, "override", 1, ["web"])
    put(db, 1, group="left as it is")
    for names in (["db"], ["a/b"], ["unknown"], []):
        assert set_groups(db, "empty_only", 1, names, sync_status="syncreq") == b"ok"
    assert memberships(db, 1) == priorities("web")
    assert group_columns(db, 1) == ("left as it is", group_hash("web"), "synced")


def test_remove_takes_memberships_and_keeps_the_others(db: WdbClient) -> None:
    set_groups(db, "override", 1, ["web", "linux", "db"])
    assert set_groups(db, "remove", 1, ["web", "default"], sync_status="syncreq") == b"ok"
    assert memberships(db, 1) == [("linux", 1), ("db", 2)]
    assert group_columns(db, 1) == ("linux,db", group_hash("linux", "db"), "syncreq")


@pytest.mark.parametrize("removed", [["web"], ["default"], ["web", "default"], ["default", "web"]])
def test_removing_the_last_group_leaves_the_agent_in_default(db: WdbClient, removed: list[str]) -> None:
    set_groups(db, "override", 1, removed)
    assert set_groups(db, "remove", 1, removed) == b"ok"
    assert memberships(db, 1) == priorities("default")
    assert group_columns(db, 1) == ("default", "37a8eec1", "synced")


def test_remove_of_an_unknown_group_fails_and_recalculates(db: WdbClient) -> None:
    set_groups(db, "override", 1, ["web", "db"])
    put(db, 1, group="stale", group_hash="stale")
    assert set_groups(db, "remove", 1, ["nope", "db"], sync_status="syncreq") == SET_FAILED
    assert memberships(db, 1) == priorities("web")
    assert group_columns(db, 1) == ("web", group_hash("web"), "syncreq")


# Failures.


def test_an_unknown_group_is_passed_over_and_uses_up_no_priority(db: WdbClient) -> None:
    assert set_groups(db, "override", 1, ["web", "unknown", "db"], sync_status="syncreq") == SET_FAILED
    assert memberships(db, 1) == priorities("web", "db")
    assert group_columns(db, 1) == ("web,db", group_hash("web", "db"), "syncreq")


@pytest.mark.parametrize("element", [5, None, True, {}, ["db"]])
def test_an_element_that_is_no_text_is_passed_over(db: WdbClient, element: object) -> None:
    assert set_groups(db, "append", 1, ["web", element, "db"]) == SET_FAILED
    assert memberships(db, 1) == priorities("web", "db")
    assert group_columns(db, 1)[0] == "web,db"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "a,b", "x" * 256])
def test_an_invalid_name_fails_the_item_before_anything_is_assigned(db: WdbClient, name: str) -> None:
    set_groups(db, "override", 1, ["default"])
    set_groups(db, "override", 2, ["default"])
    assert set_groups(db, "append", 1, ["web", name], sync_status="syncreq") == SET_FAILED
    assert memberships(db, 1) == priorities("default")
    assert set_groups(db, "override", 2, ["web", name], sync_status="syncreq") == SET_FAILED
    assert memberships(db, 2) == []
    for agent_id in (1, 2):
        assert group_columns(db, agent_id) == ("default", "37a8eec1", "synced")


def test_an_agent_has_128_groups_at_most(db: WdbClient) -> None:
    names = [f"g{number}" for number in range(129)]
    add_groups(db, *names)
    assert set_groups(db, "override", 1, names[:128]) == b"ok"
    assert memberships(db, 1) == priorities(*names[:128])
    full = group_columns(db, 1)
    assert full == (",".join(names[:128]), group_hash(*names[:128]), "synced")
    for again in (names[128], names[0]):
        assert set_groups(db, "append", 1, [again], sync_status="syncreq") == SET_FAILED
    assert group_columns(db, 1) == full
    assert set_groups(db, "append", 1, []) == b"ok"
    assert set_groups(db, "override", 1, names, sync_status="syncreq") == SET_FAILED
    assert memberships(db, 1) == []
    assert group_columns(db, 1) == full, "nothing is recalculated after a failed validation"
    assert set_groups(db, "empty_only", 2, names) == SET_FAILED
    assert memberships(db, 2) == []
    assert set_groups(db, "append", 3, names[:100]) == b"ok"
    assert set_groups(db, "append", 3, names[100:]) == SET_FAILED
    assert set_groups(db, "append", 3, names[100:128]) == b"ok"
    assert len(memberships(db, 3)) == 128


def test_the_longest_group_name_is_accepted(db: WdbClient) -> None:
    name = "aZ9_.-" + "x" * 249
    add_groups(db, name)
    assert set_groups(db, "override", 1, [name]) == b"ok"
    assert memberships(db, 1) == priorities(name)


def test_a_sync_status_outside_the_check_fails_the_item_and_leaves_the_columns(db: WdbClient) -> None:
    set_groups(db, "override", 1, ["web"], sync_status="syncreq")
    assert set_groups(db, "append", 1, ["db"], sync_status="bogus") == SET_FAILED
    assert memberships(db, 1) == priorities("web", "db")
    assert group_columns(db, 1) == ("web", group_hash("web"), "syncreq")


def test_an_item_that_fails_does_not_stop_the_next(db: WdbClient) -> None:
    items = [
        {"id": 1, "groups": ["unknown"]},
        {"id": 99, "groups": ["web"]},
        {"id": 2, "groups": ["a/b"]},
        {"id": 3, "groups": ["web"]},
        {"id": 3, "groups": ["db"]},
    ]
    assert db.raw(f"global set-agent-groups {compact({'mode': 'append', 'data': items})}") == SET_FAILED
    assert [memberships(db, agent_id) for agent_id in (1, 2, 3)] == [[], [], priorities("web", "db")]
    assert group_columns(db, 3)[0] == "web,db"


# Agents that do not exist.


def test_an_unknown_agent_fails_unless_override_has_nothing_to_assign(db: WdbClient) -> None:
    for mode in ("append", "empty_only", "override", "remove"):
        assert set_groups(db, mode, 99, ["web"]) == SET_FAILED
    assert set_groups(db, "override", 99, []) == b"ok"
    for mode in ("append", "empty_only"):
        assert set_groups(db, mode, 99, ["web"], name="late") == SET_FAILED
    assert db.raw("global get-agent-info 99") == b"ok []"


@pytest.mark.parametrize("node", ["db", "worker_db"])
def test_override_with_a_name_creates_the_agent(request: pytest.FixtureRequest, node: str) -> None:
    db: WdbClient = request.getfixturevalue(node)
    before = time.time()
    assert set_groups(db, "override", 50, ["default"], name="late", sync_status="syncreq") == b"ok"
    created = agent(db, 50)
    assert within(before, created.pop("date_add"), time.time())
    assert created == {
        "id": 50,
        "name": "late",
        "ip": "0.0.0.0",
        "register_ip": "0.0.0.0",
        "node_name": "unknown",
        "group": "default",
        "group_hash": "37a8eec1",
        "group_sync_status": "syncreq",
        "sync_status": "synced",
        "connection_status": "never_connected",
        "disconnection_time": 0,
        "group_config_status": "not synced",
        "status_code": 0,
    }
    assert memberships(db, 50) == priorities("default")


def test_override_keeps_the_name_of_an_agent_that_exists(db: WdbClient) -> None:
    assert set_groups(db, "override", 1, ["web"], name="another") == b"ok"
    assert agent(db, 1)["name"] == "agent1"


def test_an_agent_is_not_created_for_groups_that_do_not_exist(db: WdbClient) -> None:
    assert set_groups(db, "override", 51, ["unknown"], name="late") == SET_FAILED
    assert set_groups(db, "override", 52, ["a/b"], name="late") == SET_FAILED
    assert db.ids("get-all-agents last_id") == [1, 2, 3]
    assert set_groups(db, "override", 53, ["unknown", "web"], name="late") == SET_FAILED
    assert memberships(db, 53) == priorities("web")


def test_a_worker_wants_a_name_for_override(worker_db: WdbClient) -> None:
    add_groups(worker_db, "web")
    add_agent(worker_db, 1)
    set_groups(worker_db, "override", 1, ["default"], name="agent1")
    assert set_groups(worker_db, "override", 1, ["web"], sync_status="syncreq") == SET_FAILED
    assert memberships(worker_db, 1) == []
    assert group_columns(worker_db, 1) == ("default", "37a8eec1", "synced"), "nothing is recalculated"
    assert set_groups(worker_db, "override", 1, ["web"], name="agent1") == b"ok"
    for mode in ("append", "remove", "empty_only"):
        assert set_groups(worker_db, mode, 1, ["default"]) == b"ok"
    items = [{"id": 1, "groups": ["web"]}, {"id": 1, "name": "agent1", "groups": ["default", "web"]}]
    assert worker_db.raw(f"global set-agent-groups {compact({'mode': 'override', 'data': items})}") == SET_FAILED
    assert memberships(worker_db, 1) == priorities("default", "web")


def test_the_groups_of_an_agent_read_back_everywhere(db: WdbClient) -> None:
    set_groups(db, "override", 1, ["web", "db", "default"])
    assert db.raw("global select-group-belong 1") == b'ok ["web","db","default"]'
    assert db.raw("global select-agent-group 1") == b'ok [{"group":"web,db,default"}]'
    (answer,) = json.loads(db.command('global sync-agent-groups-get {"condition":"all"}'))
    assert [item["groups"] for item in answer["data"]] == [["web", "db", "default"], [], []]
