"""Nodes whose agent database is a wazuh-db, beside stock peers: every request and every message is as in the
protocol."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from clusterd.status.status import StatusReader
from tests.conftest import KEY, MakeRig, rigs
from tests.fakes.wazuh_db import FakeWazuhDb
from tests.system.new_lines import NewLines
from tools.rig.nodes import Rig
from tools.rig.peer import StockMaster, StockWorker, wait_until
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow

OFF: dict[str, Any] = {
    "clusterd": {"store": "off"},
    "intervals": {"master": {"agent_group_start_delay": 0.2}, "worker": {"agent_groups_mismatch_limit": 3}},
}
HASH = "0f8f1b5d8b2a6a1d7f4f3c2b1a09e8d7c6b5a493"
CHUNK = f'[{{"data":[{{"id":1,"name":"agent1","groups":["default"]}}],"hash":"{HASH}"}}]'
DUE = '[{"data":[{"id":1,"name":"agent1","groups":["default"]}]}]'
CHANGES = 'global sync-agent-groups-get {"condition": "sync_status", "set_synced": true, "get_global_hash": true}'
OWN_HASH = 'global sync-agent-groups-get {"get_global_hash": true}'
RECALCULATE = "global recalculate-agent-group-hashes"
PENDING = {
    "syncreq": [{"id": 1, "name": "agent1", "connection_status": "active", "labels": [{"key": "a", "value": "b"}]}],
    "syncreq_keepalive": [{"id": 2}],
    "syncreq_status": [{"id": 3, "connection_status": "disconnected", "disconnection_time": 5, "status_code": 4}],
}


def log_of(rig: Rig, name: str) -> str:
    return (rig.node(name).root / "logs/cluster.log").read_text()


def stock_worker(rig: Rig) -> StockWorker:
    return StockWorker((HOST, rig.master.port), KEY, "rig_manager_2", rig.workers[0].root, cluster="rig")


def stock_master(rig: Rig) -> StockMaster:
    return StockMaster(
        rig.master.root, KEY, name="rig_manager_1", cluster="rig", port=rig.master.port, scan_interval_s=0.5
    )


def answering(**answers: str) -> Any:
    """`answers`: by the second word of a request, with underscores for dashes."""
    return lambda request: answers.get(request.split(" ")[1].replace("-", "_"), "ok")


# ---- our worker, a stock master --------------------------------------------------------------------------------------


def test_worker_hands_over_what_its_wazuh_db_gives(make_rig: MakeRig) -> None:
    rig = make_rig(1, overrides=OFF)
    with FakeWazuhDb(rig.workers[0].root) as database, stock_master(rig) as master:
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        wait_until(lambda: "No synchronization required, skipping." in log_of(rig, "2"), 60, "an empty round")
        assert not session.agent_info
        database.pending = dict(PENDING)
        wait_until(lambda: bool(session.agent_info), 60, "the report")
        assert session.agent_info == [PENDING]
        assert set(database.paths) == {"GET /v1/agents/sync", "GET /v1/clusterd"}
        assert database.paths.count("GET /v1/clusterd") == 1
        wait_until(
            lambda: "Finished in" in log_of(rig, "2") and "Updated 3 chunks." in log_of(rig, "2"), 10, "the line"
        )
        assert not session.notes


def test_worker_writes_groups_compares_and_asks_for_everything(make_rig: MakeRig) -> None:
    rig = make_rig(1, overrides=OFF)
    answers = answering(sync_agent_groups_get='ok [{"data":[],"hash":"different"}]')
    with FakeWazuhDb(rig.workers[0].root, answers) as database, stock_master(rig) as master:
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        for round_ in range(1, 4):
            session.send_agent_groups([DUE, CHUNK])
            wait_until(lambda n=round_: len(session.groups_results) == n, 60, "the result")  # type: ignore[misc]
        request = (
            'global set-agent-groups {"mode":"override","sync_status":"synced",'
            '"data":[{"id":1,"name":"agent1","groups":["default"]}]}'
        )
        assert database.requests[:3] == [request, request, OWN_HASH]
        result = json.loads(session.groups_results[0])
        assert (result["updated_chunks"], result["error_messages"]) == (2, [])
        wait_until(lambda: "Sent request to obtain all agent-groups" in log_of(rig, "2"), 60, "the request for all")
        session.send_agent_groups([DUE], full=True)
        wait_until(lambda: len(session.groups_results) == 4 and database.requests[-1] == RECALCULATE, 60, "all groups")
        assert not session.notes


def test_refused_chunk_is_reported_and_the_next_one_follows(make_rig: MakeRig) -> None:
    rig = make_rig(1, overrides=OFF)
    answers = answering(
        set_agent_groups="err An error occurred during the set of the groups",
        sync_agent_groups_get=f'ok [{{"data":[],"hash":"{HASH}"}}]',
    )
    with FakeWazuhDb(rig.workers[0].root, answers) as database, stock_master(rig) as master:
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        session.send_agent_groups([DUE, "no json", CHUNK])
        wait_until(lambda: len(session.groups_results) == 1, 60, "the result")
        result = json.loads(session.groups_results[0])
        assert result["updated_chunks"] == 0
        assert len(result["error_messages"]) == 3
        assert [request.split(" ")[1] for request in database.requests].count("set-agent-groups") == 2
        wait_until(lambda: database.requests[-1] == OWN_HASH, 60, "the comparison")


# ---- our master, a stock worker --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[Rig]:
    """Our master, for tests that play its database and its worker."""
    with rigs() as make:
        made = make(1, overrides=OFF)
        made.start("master")
        yield made


@pytest.fixture
def rig(served: Rig) -> Iterator[Rig]:
    yield served
    reader = StatusReader(str(served.master.root))
    wait_until(lambda: not reader.read_sync()["peers"], 60, "the master has no worker")


def send_report(worker: StockWorker, chunks: Any) -> None:
    text = json.dumps({"set_data_command": "global sync-agent-info-set", "payload": {}, "chunks": chunks}).encode()
    string_id = worker.connection.send_string(text)
    assert worker.ask("syn_a_w_m", string_id).payload.decode() == string_id


def test_master_posts_what_a_stock_worker_reports(rig: Rig) -> None:
    with FakeWazuhDb(rig.master.root) as database:
        with stock_worker(rig) as worker:
            worker.join()
            assert worker.ask("syn_a_w_m_p").payload == b"True"
            send_report(worker, PENDING)
            wait_until(lambda: bool(worker.agent_info_results), 60, "the result")
            result = json.loads(worker.agent_info_results[0])
            assert list(result) == ["updated_chunks", "error_messages", "time_spent"]
            assert (result["updated_chunks"], result["error_messages"]) == (3, [])
            assert database.reports == [PENDING]
            database.post_status = 500
            send_report(worker, PENDING)
            wait_until(lambda: len(worker.agent_info_results) == 2, 60, "the second result")
            result = json.loads(worker.agent_info_results[1])
            assert result["updated_chunks"] == 0
            assert result["error_messages"]
            send_report(worker, None)
            wait_until(lambda: len(worker.agent_info_results) == 3, 60, "the refusal")
            assert worker.agent_info_results[2].startswith("error while trying to load JSON")
            assert worker.ask("syn_a_w_m", "12345").payload == b"12345"
            wait_until(lambda: len(worker.agent_info_results) == 4, 60, "the refusal of a string that is not there")
            assert "error while trying to access string under task_id b'12345'." in worker.agent_info_results[3]


def test_master_sends_groups_every_round_and_everything_on_request(rig: Rig) -> None:
    rounds = iter([f"due {DUE}", f"ok {CHUNK}"])

    def answer(request: str) -> str:
        if request == CHANGES:
            return next(rounds, f'ok [{{"data":[],"hash":"{HASH}"}}]')
        if '"condition": "all"' in request:
            return f"ok {DUE}" if '"last_id": 0}' in request else 'ok [{"data":[]}]'
        return "ok"

    with FakeWazuhDb(rig.master.root, answer) as database:
        with stock_worker(rig) as worker:
            worker.join()
            wait_until(lambda: len(worker.agent_groups) >= 2, 60, "two messages")
            first = worker.agent_groups[0]
            assert list(first) == ["set_data_command", "payload", "chunks"]
            assert first["set_data_command"] == "global set-agent-groups"
            assert first["payload"] == {"mode": "override", "sync_status": "synced"}
            assert first["chunks"] == [DUE, CHUNK]
            assert worker.agent_groups[1]["chunks"] == [f'[{{"data":[],"hash":"{HASH}"}}]']
            assert set(database.requests) == {CHANGES}
            before = len(worker.agent_groups)
            worker.ask("syn_w_g_c")
            wait_until(lambda: [DUE] in [one["chunks"] for one in worker.agent_groups[before:]], 60, "everything")
            assert RECALCULATE in database.requests
            assert (
                'global sync-agent-groups-get {"condition": "all", "set_synced": false, "get_global_hash": false, '
                '"last_id": 0}' in database.requests
            )
            assert not worker.notes


def test_no_worker_may_report_while_no_database_answers(rig: Rig) -> None:
    with stock_worker(rig) as worker:
        worker.join()
        with FakeWazuhDb(rig.master.root):
            assert worker.ask("syn_a_w_m_p").payload == b"True"
        log = NewLines(rig.master)
        assert worker.ask("syn_a_w_m_p").payload == b"False"
        with FakeWazuhDb(rig.master.root):
            assert worker.ask("syn_a_w_m_p").payload == b"True"
        assert worker.ask("syn_a_w_m_p").payload == b"False"
    assert log.text.count("Workers may not report their agents") == 2
    assert "The agent database answers again." in log.text
