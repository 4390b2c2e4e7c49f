"""Reading agent groups and the global group hash: wdb.md 3.1, 3.3, 3.4 and section 5."""

import json
import time

import pytest

from tests.contracts.helpers import (
    CHUNK,
    add_agent,
    add_agents,
    add_groups,
    compact,
    global_hash,
    group_columns,
    group_hash,
    own_hash,
    put,
    set_groups,
    until,
)
from tools.rig.wdb_client import WdbClient

NOBODY = b'ok [{"data":[]}]'


def get(db: WdbClient, **members: object) -> bytes:
    return db.raw(f"global sync-agent-groups-get {compact(members)}")


def got_ids(answer: bytes) -> list[int]:
    status, _, payload = answer.partition(b" ")
    assert status in (b"ok", b"due")
    (data,) = json.loads(payload)
    return [item["id"] for item in data["data"]]


@pytest.mark.parametrize(
    "argument",
    [
        '{"last_id":-1}',
        '{"last_id":"1"}',
        '{"condition":1}',
        '{"condition":["all"]}',
        '{"set_synced":1}',
        '{"set_synced":"true"}',
        '{"get_global_hash":"yes"}',
        '{"get_global_hash":0}',
        '{"agent_registration_delta":-1}',
        '{"agent_registration_delta":"5"}',
        '{"agent_registration_delta":true}',
    ],
)
def test_members_of_a_wrong_type_are_refused(db: WdbClient, argument: str) -> None:
    answer = db.raw(f"global sync-agent-groups-get {argument}")
    assert answer == b"err Invalid JSON data, invalid alternative fields data"


@pytest.mark.parametrize("condition", ["some", "", "ALL", "syncreq"])
def test_an_unknown_condition_is_refused(db: WdbClient, condition: str) -> None:
    answer = get(db, condition=condition)
    assert answer == b"err Could not obtain a response from wdb_global_sync_agent_groups_get"


def test_without_a_condition_no_agent_is_returned(db: WdbClient) -> None:
    add_agent(db, 1)
    assert db.raw("global sync-agent-groups-get {}") == NOBODY
    set_groups(db, "override", 1, ["default"], sync_status="syncreq")
    assert get(db, set_synced=True) == NOBODY
    assert group_columns(db, 1)[2] == "syncreq"
    assert get(db, get_global_hash=True) == b'ok [{"data":[],"hash":"aac8edbccfab5ea7eee53016af08b756a44dc399"}]'


def test_the_hash_is_null_when_no_agent_has_one(db: WdbClient) -> None:
    assert get(db, get_global_hash=True) == b'ok [{"data":[],"hash":null}]'
    add_agents(db, 1, 2)
    assert get(db, get_global_hash=True) == b'ok [{"data":[],"hash":null}]'
    assert get(db, condition="sync_status", get_global_hash=True) == b'ok [{"data":[],"hash":null}]'
    assert get(db, condition="all", get_global_hash=True).endswith(b'],"hash":null}]')


def test_all_returns_every_agent_but_the_manager(db: WdbClient) -> None:
    add_groups(db, "linux")
    add_agent(db, 2, "beta")
    add_agent(db, 1, "älpha")
    add_agent(db, 10, "gamma")
    set_groups(db, "override", 2, ["linux", "default"])
    set_groups(db, "append", 1, ["default"])
    wanted = (
        '{"id":1,"name":"älpha","groups":["default"]},{"id":2,"name":"beta","groups":["linux","default"]},'
        '{"id":10,"name":"gamma","groups":[]}'
    )
    assert get(db, condition="all") == f'ok [{{"data":[{wanted}]}}]'.encode()
    digest = global_hash(["37a8eec1", "3896ccb4"])
    assert get(db, condition="all", get_global_hash=True) == f'ok [{{"data":[{wanted}],"hash":"{digest}"}}]'.encode()


def test_only_greater_ids_than_the_last(db: WdbClient) -> None:
    add_agents(db, 1, 2, 10, 300)
    assert [got_ids(get(db, condition="all", last_id=last)) for last in (0, 1, 9, 10, 300)] == [
        [1, 2, 10, 300],
        [2, 10, 300],
        [10, 300],
        [300],
        [],
    ]


def test_waiting_agents_are_returned_once_when_they_are_to_be_set_synced(db: WdbClient) -> None:
    add_agents(db, 1, 2, 3)
    for agent_id in (1, 3):
        set_groups(db, "append", agent_id, ["default"], sync_status="syncreq")
    assert got_ids(get(db, condition="sync_status")) == [1, 3]
    assert got_ids(get(db, condition="sync_status", set_synced=False)) == [1, 3]
    assert got_ids(get(db, condition="sync_status", set_synced=True, last_id=1)) == [3]
    assert got_ids(get(db, condition="sync_status", set_synced=True)) == [1]
    assert get(db, condition="sync_status", set_synced=True) == NOBODY
    assert group_columns(db, 1) == ("default", "37a8eec1", "synced")


def test_all_with_set_synced_settles_whom_it_returns(db: WdbClient) -> None:
    add_agents(db, 1, 2)
    for agent_id in (1, 2):
        set_groups(db, "append", agent_id, ["default"], sync_status="syncreq")
    assert got_ids(get(db, condition="all", set_synced=True, last_id=1)) == [2]
    assert [group_columns(db, agent_id)[2] for agent_id in (1, 2)] == ["syncreq", "synced"]


def test_the_delta_leaves_out_agents_registered_lately(db: WdbClient) -> None:
    now = int(time.time())
    for agent_id, age in ((1, 1000), (2, 100), (3, -1000)):
        add_agent(db, agent_id, date_add=now - age)
    assert got_ids(get(db, condition="all")) == [1, 2]
    assert got_ids(get(db, condition="all", agent_registration_delta=50)) == [1, 2]
    assert got_ids(get(db, condition="all", agent_registration_delta=500)) == [1]
    assert got_ids(get(db, condition="all", agent_registration_delta=5000)) == []
    for agent_id in (1, 2, 3):
        put(db, agent_id, group_sync_status="syncreq")
    assert got_ids(get(db, condition="sync_status", set_synced=True, agent_registration_delta=500)) == [1]
    assert [group_columns(db, agent_id)[2] for agent_id in (1, 2, 3)] == ["synced", "syncreq", "syncreq"]


def test_an_agent_registered_in_this_very_second_is_not_returned_yet(db: WdbClient) -> None:
    registered = int(time.time()) + 1
    add_agent(db, 1, date_add=registered)
    seen: set[bool] = set()

    def both_seen() -> bool:
        before = int(time.time())
        returned = bool(got_ids(get(db, condition="all")))
        if int(time.time()) == before:
            assert returned == (before > registered)
            seen.add(returned and before == registered + 1)
        return seen == {False, True}

    until(both_seen, "the agent is returned one second after its registration")


def test_our_own_member_returns_agents_that_were_registered_before_the_clock_was_set_back(db: WdbClient) -> None:
    for agent_id, age in ((1, 100), (2, -100_000)):
        add_agent(db, agent_id, date_add=int(time.time()) - age)
    assert got_ids(get(db, condition="all")) == [1]
    assert got_ids(get(db, condition="all", clusterd_future=False)) == [1]
    assert got_ids(get(db, condition="all", clusterd_future=True)) == [1, 2]
    assert got_ids(get(db, condition="all", clusterd_future=True, agent_registration_delta=500)) == [2]


# The chunk rule: `used` starts at 13 (2.3, 3.1).


def item_length(agent_id: int, name: str) -> int:
    return len(f'{{"id":{agent_id},"name":"{name}","groups":[]}}'.encode())


def names_using(total: int, count: int = 2) -> list[str]:
    """Returns names of agents 1 to `count` without groups whose items use `total` of the budget, the 13 included."""
    room = total - 13 - sum(item_length(number, "") + 1 for number in range(1, count + 1))
    return ["n" * (room // count)] * (count - 1) + ["n" * (room - room // count * (count - 1))]


def put_agents(db: WdbClient, names: list[str]) -> None:
    for number, name in enumerate(names, 1):
        add_agent(db, number, name)
        put(db, number, group_sync_status="syncreq")


@pytest.mark.parametrize(("total", "fits"), [(CHUNK - 2, True), (CHUNK - 1, True), (CHUNK, False)])
def test_an_item_fits_while_the_budget_is_not_reached(db: WdbClient, total: int, fits: bool) -> None:
    put_agents(db, names_using(total))
    answer = get(db, condition="sync_status", set_synced=True)
    assert answer.startswith(b'ok [{"data":[' if fits else b'due [{"data":[')
    assert got_ids(answer) == ([1, 2] if fits else [1])
    if fits:
        assert len(answer) == 3 + total - 1
    assert group_columns(db, 2)[2] == ("synced" if fits else "syncreq"), "nothing is done to what did not fit"
    assert get(db, condition="sync_status", set_synced=True) == (NOBODY if fits else rest(db))


def rest(db: WdbClient) -> bytes:
    (row,) = db.rows("select name from agent where id = 2")
    return f'ok [{{"data":[{{"id":2,"name":"{row["name"]}","groups":[]}}]}}]'.encode()


def test_the_largest_chunk_has_65022_bytes(db: WdbClient) -> None:
    put_agents(db, names_using(CHUNK - 1))
    assert len(get(db, condition="all")) == len("ok ") + 65_022


def test_lengths_are_counted_in_bytes(db: WdbClient) -> None:
    names = names_using(CHUNK)
    put_agents(db, [names[0], "é" + names[1][3:]])  # one byte less
    assert got_ids(get(db, condition="all")) == [1, 2]
    put(db, 2, name="é" + names[1][2:])
    assert got_ids(get(db, condition="all")) == [1]


@pytest.mark.parametrize(("total", "fits"), [(CHUNK - 51, True), (CHUNK - 50, True), (CHUNK - 49, False)])
@pytest.mark.parametrize("null", [False, True])
def test_the_hash_is_added_when_48_more_fit(db: WdbClient, total: int, fits: bool, null: bool) -> None:
    put_agents(db, names_using(total))
    if not null:
        add_agent(db, 3, date_add=int(time.time()) + 100_000)  # never returned, its hash counts
        set_groups(db, "append", 3, ["default"])
    digest = b"null" if null else b'"aac8edbccfab5ea7eee53016af08b756a44dc399"'
    answer = get(db, condition="sync_status", set_synced=True, get_global_hash=True)
    assert got_ids(answer) == [1, 2]
    if fits:
        assert answer.startswith(b"ok ")
        assert answer.endswith(b'}],"hash":' + digest + b"}]")
        assert len(answer) == 3 + total - 1 + len(b',"hash":') + len(digest)
        assert null or len(answer) <= 65_026
    else:
        assert answer.startswith(b"due ")
        assert answer.endswith(b"}]}]")
    assert get(db, condition="sync_status", set_synced=True, get_global_hash=True) == (
        b'ok [{"data":[],"hash":' + digest + b"}]"
    )


def test_an_agent_that_fits_into_no_answer_holds_up_no_other(db: WdbClient) -> None:
    """By the rule `due` would be the answer for ever."""
    put_agents(db, ["a", "n" * (CHUNK - 10), "b"])
    assert got_ids(get(db, condition="sync_status", set_synced=True, get_global_hash=True)) == [1, 3]
    assert got_ids(get(db, condition="sync_status", set_synced=True)) == []
    assert group_columns(db, 2)[2] == "syncreq"
    agents, _ = db.agent_groups(condition="all")
    assert [item["id"] for item in agents] == [1, 3]


def test_a_chunk_that_ends_in_due_has_no_hash(db: WdbClient) -> None:
    put_agents(db, names_using(3 * CHUNK // 2, 3))
    answer = get(db, condition="all", get_global_hash=True)
    assert answer.startswith(b"due ")
    assert b"hash" not in answer
    agents, digest = db.agent_groups(condition="all", get_global_hash=True)
    assert [item["id"] for item in agents] == [1, 2, 3]
    assert digest is None


# recalculate-agent-group-hashes, get-groups-integrity (3.3, 3.4).


def test_recalculate_writes_what_the_memberships_say(db: WdbClient) -> None:
    add_groups(db, "web")
    add_agents(db, 1, 2, 3)
    add_agent(db, 4, group="only,a,text")
    set_groups(db, "override", 1, ["web", "default"], sync_status="syncreq")
    set_groups(db, "override", 2, ["web"])
    put(db, 1, group="stale", group_hash="00000000")
    put(db, 2, group=None, group_hash=None)
    before = db.raw("global get-agent-info 3")
    assert db.raw("global recalculate-agent-group-hashes") == b"ok"
    assert group_columns(db, 1) == ("web,default", group_hash("web", "default"), "syncreq")
    assert group_columns(db, 2) == ("web", group_hash("web"), "synced")
    assert group_columns(db, 4) == (None, None, "synced")
    assert db.raw("global get-agent-info 3") == before
    assert own_hash(db) == global_hash([group_hash("web", "default"), group_hash("web")])


def test_recalculate_sees_memberships_made_with_sql(db: WdbClient) -> None:
    add_agents(db, 1, 2, 3)
    db.command(
        "global sql insert into belongs (id_agent, id_group, priority) "
        "select agent.id, `group`.id, 0 from agent join `group` where agent.id > 0 and `group`.name = 'default'"
    )
    assert db.raw("global recalculate-agent-group-hashes") == b"ok"
    assert own_hash(db) == "bd612e9ae2faf8a44b387eeb9f3d5a5e577c8c64"


@pytest.mark.parametrize("text", ["abc", "a" * 39, "0"])
def test_a_short_hash_is_refused_with_its_length(db: WdbClient, text: str) -> None:
    wanted = f"err Hash hex-digest does not have the expected length. Expected (40) got ({len(text)})"
    assert db.raw(f"global get-groups-integrity {text}") == wanted.encode()


def test_the_first_answer_that_matches_wins(db: WdbClient) -> None:
    own = "aac8edbccfab5ea7eee53016af08b756a44dc399"
    assert db.raw(f"global get-groups-integrity {own}") == b'ok ["hash_mismatch"]', "there is no own hash"
    add_agent(db, 1)
    set_groups(db, "append", 1, ["default"], sync_status="syncreq")
    for digest in (own, "0" * 40):
        assert db.raw(f"global get-groups-integrity {digest}") == b'ok ["syncreq"]'
    get(db, condition="sync_status", set_synced=True)
    assert db.raw(f"global get-groups-integrity {own}") == b'ok ["synced"]'
    assert db.raw(f"global get-groups-integrity {own}and more") == b'ok ["synced"]'
    assert db.raw(f"global get-groups-integrity {'0' * 40}") == b'ok ["hash_mismatch"]'


# Section 5.


@pytest.mark.parametrize(
    ("groups", "digest"),
    [
        (["default"], "37a8eec1"),
        (["default", "linux"], "fe375984"),
        (["linux", "default"], "3896ccb4"),
        (["web", "db", "default"], "6d9091db"),
        (["default", "group1"], "e48046b2"),
        (["group1"], "ec282560"),
    ],
)
def test_worked_examples_of_the_group_hash(db: WdbClient, groups: list[str], digest: str) -> None:
    add_groups(db, *{*groups} - {"default"})
    add_agent(db, 1)
    assert set_groups(db, "override", 1, groups) == b"ok"
    assert group_columns(db, 1) == (",".join(groups), digest, "synced")


def test_worked_examples_of_the_global_hash(db: WdbClient) -> None:
    add_groups(db, "linux", "web", "db")
    add_agents(db, 1, 2, 3)
    assert own_hash(db) is None
    set_groups(db, "override", 1, ["default"])
    assert own_hash(db) == "aac8edbccfab5ea7eee53016af08b756a44dc399"
    set_groups(db, "override", 3, ["web", "db", "default"])
    assert own_hash(db) == "8f2e520195dd880f664ba748049e43861343c7bb"
    set_groups(db, "override", 2, ["default", "linux"])
    assert own_hash(db) == "2fe17f231655dfb69e1978ca8b523048a186af26"
    set_groups(db, "override", 2, ["linux", "default"])
    assert own_hash(db) == "55804e2e46cd19056e86d6068ae5ea96e165e159"
    db.command("global delete-agent 2")
    assert own_hash(db) == "8f2e520195dd880f664ba748049e43861343c7bb"
    add_agent(db, 2)
    assert own_hash(db) == "8f2e520195dd880f664ba748049e43861343c7bb"
    for agent_id in (1, 2, 3):
        set_groups(db, "override", agent_id, ["default"])
    assert own_hash(db) == "bd612e9ae2faf8a44b387eeb9f3d5a5e577c8c64"
    for agent_id in (1, 2, 3):
        set_groups(db, "override", agent_id, [])
    assert own_hash(db) is None


def test_the_manager_does_not_count_for_the_hash(db: WdbClient) -> None:
    add_agent(db, 1)
    set_groups(db, "override", 1, ["default"])
    assert set_groups(db, "override", 0, ["default"], sync_status="syncreq") == b"ok"
    assert own_hash(db) == "aac8edbccfab5ea7eee53016af08b756a44dc399"
    assert get(db, condition="sync_status") == NOBODY
    set_groups(db, "override", 0, [])
