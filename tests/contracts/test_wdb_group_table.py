"""The table of groups: wdb.md 3.17 to 3.22."""

import json
import uuid
from pathlib import Path

import pytest

from tests.contracts.helpers import (
    CHUNK,
    add_agent,
    add_agents,
    add_groups,
    add_many,
    fitting,
    group_columns,
    group_hash,
    memberships,
    own_hash,
    put,
    set_groups,
    until,
)
from tests.store.lone_store import LoneStore
from tools.rig.wdb_client import WdbClient


def test_groups_are_found_by_name(db: WdbClient) -> None:
    assert db.raw("global find-group web") == b"ok []"
    assert db.raw("global insert-agent-group web") == b"ok"
    (row,) = json.loads(db.command("global find-group web"))
    assert db.raw("global find-group web") == b'ok [{"id":%d}]' % row["id"]
    assert json.loads(db.command("global select-groups")) == [{"name": "default"}, {"name": "web"}]


@pytest.mark.parametrize("name", ["a/b", ".", "..", "a b", "ä", "a,b", "default", "x" * 256, "a\tb", "a:b"])
def test_a_name_that_is_invalid_or_taken_is_refused(db: WdbClient, name: str) -> None:
    assert db.raw(f"global insert-agent-group {name}") == b"err Error inserting group in global.db."
    assert db.raw("global select-groups") == b'ok [{"name":"default"}]'


@pytest.mark.parametrize("name", ["a", "-", "...", ".a", "A.b_C-9", "x" * 255, "0", "Default"])
def test_a_valid_name_is_accepted(db: WdbClient, name: str) -> None:
    assert db.raw(f"global insert-agent-group {name}") == b"ok"
    assert db.raw(f"global find-group {name}").startswith(b'ok [{"id":')


def test_ids_of_groups_are_never_reused(db: WdbClient) -> None:
    seen = []
    for _ in range(3):
        add_groups(db, "again")
        seen += [row["id"] for row in json.loads(db.command("global find-group again"))]
        db.command("global delete-group again")
    assert sorted(set(seen)) == seen


def test_a_list_of_groups_too_long_for_a_frame_is_cut_and_still_ok(db: WdbClient) -> None:
    names = [f"{number:0255}" for number in range(260)]
    add_groups(db, *names)
    rows = [row["name"] for row in json.loads(db.command("global select-groups"))]
    length = len(f'{{"name":"{names[0]}"}}')
    short = ["default"] if "default" in rows else []
    assert len(rows) - len(short) == fitting([length] * 260, 2 + len(short) * (len('{"name":"default"}') + 1))
    assert set(rows) <= {*names, "default"}


# delete-group (3.21).


@pytest.mark.parametrize(("node", "status"), [("db", "syncreq"), ("worker_db", "synced")])
def test_members_of_a_deleted_group_move(request: pytest.FixtureRequest, node: str, status: str) -> None:
    db: WdbClient = request.getfixturevalue(node)
    add_groups(db, "web", "linux")
    add_agents(db, 1, 2, 3, 4)
    set_groups(db, "append", 1, ["web"])
    set_groups(db, "append", 2, ["linux", "web", "default"])
    set_groups(db, "append", 3, ["linux"])
    assert db.raw("global delete-group web") == b"ok"
    assert db.raw("global find-group web") == b"ok []"
    assert memberships(db, 1) == [("default", 0)]
    assert group_columns(db, 1) == ("default", "37a8eec1", status)
    assert memberships(db, 2) == [("linux", 0), ("default", 2)]
    assert group_columns(db, 2) == ("linux,default", "3896ccb4", status)
    assert group_columns(db, 3) == ("linux", group_hash("linux"), "synced")
    assert group_columns(db, 4) == (None, None, "synced")


def test_deleting_an_unknown_group_is_ok(db: WdbClient) -> None:
    assert db.raw("global delete-group nope") == b"ok"


def test_the_global_hash_follows_a_deleted_group(db: WdbClient) -> None:
    add_groups(db, "web")
    add_agent(db, 1)
    set_groups(db, "append", 1, ["web"])
    own_hash(db)
    db.command("global delete-group web")
    assert own_hash(db) == "aac8edbccfab5ea7eee53016af08b756a44dc399"


def take_away(directory: Path) -> None:
    """The directory may have content, because the store puts a file into an empty group."""
    directory.rename(directory.parents[2] / f"taken-{uuid.uuid4().hex}")


@pytest.mark.slow
def test_deleting_default_leaves_its_only_members_without_a_group(store: LoneStore, db: WdbClient) -> None:
    directory = store.root / "etc/shared/default"
    take_away(directory)
    until(lambda: db.raw("global find-group default") == b"ok []", "the group of a vanished directory is deleted")
    try:
        add_groups(db, "default", "web")
        add_agents(db, 1, 2)
        set_groups(db, "append", 1, ["default"])
        assert db.raw("global delete-group default") == b"err Error deleting group in global.db."
        assert db.raw("global find-group default") == b"ok []"
        assert memberships(db, 1) == []
        add_groups(db, "default")
        set_groups(db, "append", 2, ["default", "web"])
        assert db.raw("global delete-group default") == b"ok", "its only member has another group"
        assert memberships(db, 2) == [("web", 1)]
    finally:
        directory.mkdir()
        until(lambda: db.raw("global find-group default") != b"ok []", "the group of a new directory is inserted")


@pytest.mark.slow
def test_groups_follow_the_directories_of_etc_shared(store: LoneStore, db: WdbClient) -> None:
    shared = store.root / "etc/shared"
    add_groups(db, "no-directory")
    add_agent(db, 1)
    (shared / "a-file").touch()
    (shared / "not a name").mkdir()
    (shared / "fresh").mkdir()
    try:
        until(lambda: db.raw("global find-group fresh") != b"ok []", "the group of a new directory is inserted")
        set_groups(db, "append", 1, ["fresh"])
        assert {row["name"] for row in db.rows("select name from `group`")} == {"default", "no-directory", "fresh"}
    finally:
        take_away(shared / "fresh")
        (shared / "not a name").rmdir()
        (shared / "a-file").unlink()
    until(lambda: db.raw("global find-group fresh") == b"ok []", "the group of a vanished directory is deleted")
    assert group_columns(db, 1) == ("default", "37a8eec1", "syncreq")
    assert db.raw("global find-group no-directory") != b"ok []", "it never had a directory that could vanish"


# get-group-agents (3.22), get-distinct-groups (3.17).


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (" ", "Invalid arguments, group name not found."),
        ("web", "Invalid arguments, 'last_id' not found."),
        ("web first 0", "Invalid arguments, 'last_id' not found."),
        ("web last_id", "Invalid arguments, last agent id not found."),
    ],
)
def test_arguments_of_get_group_agents_are_checked_in_turn(db: WdbClient, argument: str, message: str) -> None:
    assert db.raw(f"global get-group-agents {argument}") == f"err {message}".encode()


def test_members_of_a_group_are_bare_numbers_in_order(db: WdbClient) -> None:
    add_groups(db, "web")
    add_agents(db, 1, 5, 7, 8)
    for agent_id in (7, 1, 5):
        set_groups(db, "append", agent_id, ["default", "web"])
    assert db.raw("global get-group-agents web last_id 0") == b"ok [1,5,7]"
    assert db.raw("global get-group-agents web last_id 005") == b"ok [7]"
    assert db.raw("global get-group-agents web last_id 7") == b"ok []"
    assert db.raw("global get-group-agents nope last_id 0") == b"ok []"


@pytest.mark.slow
def test_members_of_a_large_group_come_in_chunks(db: WdbClient) -> None:
    add_many(db, 14_000)
    db.command(
        "global sql insert into belongs (id_agent, id_group) select agent.id, `group`.id from agent join `group` "
        "where agent.id > 0 and `group`.name = 'default'"
    )
    first = db.raw("global get-group-agents default last_id 0")
    count = fitting(len(str(number)) for number in range(1, 14_001))
    assert count == 12_687, "section 12"
    assert first == b"due [" + ",".join(str(number) for number in range(1, count + 1)).encode() + b"]"
    assert db.ids("get-group-agents default last_id") == list(range(1, 14_001))
    db.command("global sql delete from belongs")
    db.command("global sql delete from agent where id > 0")


def test_distinct_groups_are_ordered_by_hash(db: WdbClient) -> None:
    add_groups(db, "linux", "web")
    assert db.raw("global get-distinct-groups") == b"ok []"
    add_agents(db, 1, 2, 3, 4)
    add_agent(db, 5, group="text-only")
    set_groups(db, "append", 1, ["default", "linux"])
    for agent_id in (2, 3):
        set_groups(db, "append", agent_id, ["default"])
    set_groups(db, "append", 0, ["web"])
    both = b'{"group":"default","group_hash":"37a8eec1"},{"group":"default,linux","group_hash":"fe375984"}'
    assert db.raw("global get-distinct-groups") == b"ok [" + both + b"]"
    assert db.raw("global get-distinct-groups 37a8eec1") == (b'ok [{"group":"default,linux","group_hash":"fe375984"}]')
    assert db.raw("global get-distinct-groups fe375984") == b"ok []"
    set_groups(db, "override", 0, [])


@pytest.mark.parametrize(("total", "fits"), [(CHUNK - 1, True), (CHUNK, False)])
def test_distinct_groups_come_in_chunks(db: WdbClient, total: int, fits: bool) -> None:
    add_agents(db, 1, 2)
    overhead = len('{"group":"","group_hash":"00000001"}') + 1
    put(db, 1, group="g" * 30_000, group_hash="00000001")
    put(db, 2, group="h" * (total - 2 - 30_000 - 2 * overhead), group_hash="00000002")
    answer = db.raw("global get-distinct-groups")
    status, rows = answer.split(b" ", 1)
    assert status == (b"ok" if fits else b"due")
    assert len(json.loads(rows)) == (2 if fits else 1)
    assert [row["group_hash"] for row in json.loads(db.command("global get-distinct-groups 00000001"))] == ["00000002"]
