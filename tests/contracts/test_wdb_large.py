"""100,000 agents: the figures of wdb.md 5 and 12; and a full transfer of groups to a worker."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contracts.conftest import MakeStore
from tests.contracts.helpers import LARGEST, add_groups, add_many, compact
from tests.store.lone_store import LoneStore
from tools.rig.wdb_client import WdbClient, wdb_http

AGENTS = 100_000
SOME = 10_000
"""A worker that gets its agents writes each in turn: more of them show nothing new."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def large(store: LoneStore) -> Iterator[WdbClient]:
    """All agents in `default`."""
    with WdbClient(store.root, 60) as db:
        fill(db, AGENTS)
        yield db


@pytest.fixture(scope="module")
def smaller_store(shared_stores: MakeStore) -> LoneStore:
    """Another master's."""
    return shared_stores("master")


@pytest.fixture(scope="module")
def smaller(smaller_store: LoneStore) -> Iterator[WdbClient]:
    """SOME agents in `default`."""
    with WdbClient(smaller_store.root, 60) as db:
        fill(db, SOME)
        yield db


def fill(db: WdbClient, count: int) -> None:
    add_many(db, count)
    db.command(
        "global sql insert into belongs (id_agent, id_group) select agent.id, `group`.id from agent join `group` "
        "where agent.id > 0 and `group`.name = 'default'"
    )
    assert db.raw("global recalculate-agent-group-hashes") == b"ok"


def chunks(db: WdbClient) -> Iterator[list[dict[str, Any]]]:
    """Yields the agents in each chunk of `sync-agent-groups-get`."""
    last = 0
    while True:
        status, payload = db.ask(f"global sync-agent-groups-get {compact({'condition': 'all', 'last_id': last})}")
        (answer,) = json.loads(payload)
        yield answer["data"]
        if status == "ok":
            return
        last = answer["data"][-1]["id"]


def as_told(chunk: list[dict[str, Any]]) -> str:
    """The request that hands a chunk to a worker, unchanged."""
    return f"global set-agent-groups {compact({'mode': 'override', 'sync_status': 'synced', 'data': chunk})}"


def test_the_global_hash_of_100_000_agents_in_default(large: WdbClient) -> None:
    assert large.group_hash() == "1d587d42c978d4883cdd3d9e1f51fec26e35deaf"


def test_agent_groups_take_the_chunks_of_the_specification(large: WdbClient) -> None:
    told = list(chunks(large))
    assert max(len(as_told(chunk)) for chunk in told) <= 65_075, "section 12"
    counts = [len(chunk) for chunk in told]
    assert len(counts) == 83
    assert (counts[0], min(counts[:-1])) == (1292, 1203)
    assert sum(counts) == AGENTS


def test_ids_take_the_chunks_of_the_specification(large: WdbClient) -> None:
    ids = [
        len(items)
        for _, items in large.chunks(lambda last: f"global get-all-agents last_id {last[-1]['id'] if last else 0}")
    ]
    assert (len(ids), ids[0], min(ids[:-1]), sum(ids)) == (20, 5510, 5001, AGENTS)
    members = [
        len(items)
        for _, items in large.chunks(lambda last: f"global get-group-agents default last_id {last[-1] if last else 0}")
    ]
    assert (len(members), members[0], min(members[:-1]), sum(members)) == (10, 12_687, 10_836, AGENTS)


def test_the_largest_listing_is_cut(large: WdbClient) -> None:
    answer = large.raw("global sql select * from agent")
    assert len(answer) == LARGEST
    assert answer.startswith(b'ok [{"id":0,"name":')


def test_the_master_tells_and_the_worker_takes_all_groups(smaller: WdbClient, worker_store: LoneStore) -> None:
    """Sections 11.3 and 11.2: sends the chunks unchanged, back to back, until the hashes are equal."""
    with WdbClient(worker_store.root, 60) as worker:
        counts = []
        for chunk in chunks(smaller):
            assert worker.raw(as_told(chunk)) == b"ok"
            counts.append(len(chunk))
        assert len(counts) > 5
        assert sum(counts) == SOME
        assert worker.raw("global recalculate-agent-group-hashes") == b"ok"
        assert worker.group_hash() == smaller.group_hash()


def test_all_agents_are_reported_at_once(
    large: WdbClient, store: LoneStore, smaller: WdbClient, smaller_store: LoneStore
) -> None:
    for word, db, root, count in (
        ("syncreq_keepalive", large, store.root, AGENTS),
        ("syncreq_status", smaller, smaller_store.root, SOME),
    ):
        db.command(f"global sql update agent set sync_status = '{word}' where id > 0")
        status, _, body = wdb_http(root, "GET", "/v1/agents/sync", timeout_s=60)
        assert status == 200
        assert len(json.loads(body)[word]) == count
        assert wdb_http(root, "POST", "/v1/agents/sync", body, timeout_s=60)[::2] == (200, b"")
        assert wdb_http(root, "GET", "/v1/agents/sync")[2] == b"{}"


def test_a_group_of_100_000_is_deleted_and_its_members_move(large: WdbClient) -> None:
    add_groups(large, "web")
    large.command("global sql update belongs set id_group = (select id from `group` where name = 'web')")
    assert large.raw("global delete-group web") == b"ok"
    assert large.group_hash() == "1d587d42c978d4883cdd3d9e1f51fec26e35deaf"
    rows = large.rows(
        "select count(*) as n, group_sync_status as s, `group` as g from agent where id > 0 group by s, g"
    )
    assert rows == [{"n": AGENTS, "s": "syncreq", "g": "default"}]
