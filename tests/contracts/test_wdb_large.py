"""100,000 agents: the figures of wdb.md 5 and 12."""

import json
from collections.abc import Iterator

import pytest

from tests.contracts.helpers import LARGEST, add_groups, add_many, compact
from tests.store.lone_store import LoneStore
from tools.rig.wdb_client import WdbClient, wdb_http

AGENTS = 100_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def large(store: LoneStore) -> Iterator[WdbClient]:
    """All agents in `default`."""
    with WdbClient(store.root, 60) as db:
        add_many(db, AGENTS)
        db.command(
            "global sql insert into belongs (id_agent, id_group) select agent.id, `group`.id from agent join `group` "
            "where agent.id > 0 and `group`.name = 'default'"
        )
        assert db.raw("global recalculate-agent-group-hashes") == b"ok"
        yield db


def sizes(db: WdbClient, **members: object) -> list[int]:
    """Agents in each chunk of `sync-agent-groups-get`."""
    counts: list[int] = []
    last = 0
    while True:
        status, payload = db.ask(f"global sync-agent-groups-get {compact({**members, 'last_id': last})}")
        (answer,) = json.loads(payload)
        counts.append(len(answer["data"]))
        if status == "ok":
            return counts
        last = answer["data"][-1]["id"]


def test_the_global_hash_of_100_000_agents_in_default(large: WdbClient) -> None:
    assert large.group_hash() == "1d587d42c978d4883cdd3d9e1f51fec26e35deaf"


def test_agent_groups_take_the_chunks_of_the_specification(large: WdbClient) -> None:
    counts = sizes(large, condition="all")
    assert len(counts) == 83
    assert (counts[0], min(counts[:-1])) == (1292, 1203)
    assert sum(counts) == AGENTS


def test_ids_take_the_chunks_of_the_specification(large: WdbClient) -> None:
    chunks = [
        len(items)
        for _, items in large.chunks(lambda last: f"global get-all-agents last_id {last[-1]['id'] if last else 0}")
    ]
    assert (len(chunks), chunks[0], min(chunks[:-1]), sum(chunks)) == (20, 5510, 5001, AGENTS)
    members = [
        len(items)
        for _, items in large.chunks(lambda last: f"global get-group-agents default last_id {last[-1] if last else 0}")
    ]
    assert (len(members), members[0], min(members[:-1]), sum(members)) == (10, 12_687, 10_836, AGENTS)


def test_the_largest_listing_is_cut(large: WdbClient) -> None:
    answer = large.raw("global sql select * from agent")
    assert len(answer) == LARGEST
    assert answer.startswith(b'ok [{"id":0,"name":')


def test_the_master_tells_and_the_worker_takes_all_groups(
    large: WdbClient, store: LoneStore, worker_store: LoneStore
) -> None:
    """Sections 11.3 and 11.2: sends the chunks unchanged, back to back, until the hashes are equal."""
    with WdbClient(worker_store.root, 60) as worker:
        last = 0
        while True:
            status, payload = large.ask(f'global sync-agent-groups-get {{"condition":"all","last_id":{last}}}')
            (answer,) = json.loads(payload)
            request = {"mode": "override", "sync_status": "synced", "data": answer["data"]}
            text = compact(request)
            assert len(text) + len("global set-agent-groups ") <= 65_075, "section 12"
            assert worker.raw(f"global set-agent-groups {text}") == b"ok"
            if status == "ok":
                break
            last = answer["data"][-1]["id"]
        assert worker.raw("global recalculate-agent-group-hashes") == b"ok"
        assert worker.group_hash() == large.group_hash()


def test_all_agents_are_reported_at_once(large: WdbClient, store: LoneStore) -> None:
    for word in ("syncreq_keepalive", "syncreq_status"):
        large.command(f"global sql update agent set sync_status = '{word}' where id > 0")
        status, _, body = wdb_http(store.root, "GET", "/v1/agents/sync", timeout_s=60)
        assert status == 200
        assert len(json.loads(body)[word]) == AGENTS
        assert wdb_http(store.root, "POST", "/v1/agents/sync", body, timeout_s=60)[::2] == (200, b"")
        assert wdb_http(store.root, "GET", "/v1/agents/sync")[2] == b"{}"


def test_a_group_of_100_000_is_deleted_and_its_members_move(large: WdbClient) -> None:
    add_groups(large, "web")
    large.command("global sql update belongs set id_group = (select id from `group` where name = 'web')")
    assert large.raw("global delete-group web") == b"ok"
    assert large.group_hash() == "1d587d42c978d4883cdd3d9e1f51fec26e35deaf"
    rows = large.rows(
        "select count(*) as n, group_sync_status as s, `group` as g from agent where id > 0 group by s, g"
    )
    assert rows == [{"n": AGENTS, "s": "syncreq", "g": "default"}]
