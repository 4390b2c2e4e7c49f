"""Capability `answer` between real nodes: small answers are responses; and every case in which they are not."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import KEY, rigs
from tests.system.dapi_client import ask, client_of, failure, request, result
from tools.rig import peer_worker
from tools.rig.faults import signal_process
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import StockWorker, wait_until
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow
QUEUED = b"Added request to API requests queue"
NODES = ("wazuh.cluster", "get_nodes_info")
ENTRIES = 2000


def without_answer(node: RigNode) -> None:
    """This node does not offer the capability."""
    path = node.root / "etc/cluster.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    content.setdefault("clusterd", {})["caps"] = {"answer": False}
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A master and two workers, the second one without the capability; the master has one large answer."""
    with rigs() as make:
        made = make(2)
        (made.master.root / "etc/lists/large").write_text("".join(f"key{n}:value\n" for n in range(ENTRIES)))
        without_answer(made.workers[1])
        made.start()
        made.wait_equal(60)
        yield made


def test_nodes_with_and_without_it_give_the_same_answers(rig: Rig) -> None:
    answers = [ask(node, *NODES) for node in rig.nodes]
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]
    wanted = {"node_list": "*", "master_md5": {}}
    fields = {"request_type": "distributed_master", "nodes": [node.name for node in rig.nodes], "broadcasting": True}
    for node in rig.nodes:
        answer = ask(node, "wazuh.cluster", "get_ruleset_sync_status", wanted, **fields)
        assert [item["name"] for item in result(answer)["affected_items"]] == [one.name for one in rig.nodes]


def test_small_answer_is_the_response(rig: Rig, tmp_path: Path) -> None:
    with StockWorker((HOST, rig.master.port), KEY, "w", tmp_path, cluster="rig") as worker:
        worker.join()
        assert json.loads(worker.ask("caps", '["answer", "other"]').payload) == ["answer"]
        answer = worker.ask("dapi_now", f"17 {request(*NODES)}")
        assert answer.command == b"ok"
        assert answer.payload[:1] == b"="
        assert result(json.loads(answer.payload[1:]))["affected_items"][0]["name"] == rig.master.name
        assert not [one for one in worker.record if one.command in ("new_str", "dapi_res") and not one.sent]


def test_large_answer_comes_as_a_long_string(rig: Rig, tmp_path: Path) -> None:
    wanted = ("wazuh.cdb_list", "get_lists", {"filename": ["large"]})
    with StockWorker((HOST, rig.master.port), KEY, "w", tmp_path, cluster="rig") as worker:
        worker.join()
        worker.ask("caps", '["answer"]')
        assert worker.ask("dapi_now", f"17 {request(*wanted)}").payload == QUEUED
        wait_until(lambda: bool(worker.forwarded), 60, "the answer has come")
        name, string = worker.forwarded[0].split(" ")
        content = worker.connection.take_string(string)
        assert (name, len(content) > 32768) == ("17", True)
        assert len(result(json.loads(content))["affected_items"][0]["items"]) == ENTRIES
    assert ask(rig.workers[0], *wanted) == json.loads(content)


def test_what_is_no_request_is_refused_as_always(rig: Rig, tmp_path: Path) -> None:
    with StockWorker((HOST, rig.master.port), KEY, "w", tmp_path, cluster="rig") as worker:
        worker.join()
        worker.ask("caps", '["answer"]')
        assert worker.ask("dapi_now", "17 [").payload == QUEUED
        wait_until(lambda: [one for one in worker.record if one.command == "dapi_err"], 60, "the refusal has come")
        assert worker.ask("dapi_now", "17").command == b"err"
        answer = worker.ask("dapi_now", f"18 {request('os', 'system', {'command': 'touch /tmp/never'})}")
        assert failure(json.loads(answer.payload[1:]))["code"] == 3009


def test_many_at_once_are_all_answered_and_keep_no_keepalive_waiting(rig: Rig, tmp_path: Path) -> None:
    with StockWorker((HOST, rig.master.port), KEY, "w", tmp_path, cluster="rig") as worker:
        worker.join()
        worker.ask("caps", '["answer"]')
        link = worker.connection.link
        for number in range(500):
            link.tell("dapi_now", f"{number} {request(*NODES)}")
        assert worker.keepalive() == b"keepalive"

        def answered() -> int:
            responses = [one for one in list(worker.record) if not one.sent and one.payload[:1] == b"="]
            return len(responses) + len(worker.forwarded)

        wait_until(lambda: answered() == 500, 60, "all are answered")


# ---- a peer that lies ------------------------------------------------------------------------------------------------


class Liar(StockWorker):
    """Claims to have the capability, and answers `dapi_now` with `said`."""

    def join(self) -> None:
        super().join()
        assert json.loads(self.ask("caps", '["answer"]').payload) == ["answer"]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The Liar's response to `dapi_now`: the single item; the payloads that it got are appended after it."""
    script: list[Any] = []

    def on_dapi_now(self: Any, payload: bytes) -> Any:
        script.append(payload)
        return script[0]

    connection = peer_worker._Connection
    monkeypatch.setattr(connection, "commands", connection.commands | {"dapi_now": "_on_dapi_now"})
    monkeypatch.setattr(connection, "_on_dapi_now", on_dapi_now, raising=False)
    return script


FORWARDED = request(*NODES, from_cluster=True)


@pytest.mark.parametrize(
    "lie",
    [b"", b"no", b"{}", QUEUED + b"!", b"=" + b"x" * 60_000, b"=" + b"x" * 3_000_000, (b"err", b"no"), (b"ok-m", b"=")],
)
def test_forged_and_oversized_answers_are_failures_for_the_asker(
    rig: Rig, tmp_path: Path, said: list[Any], lie: Any
) -> None:
    said.append(lie)
    with (
        Liar((HOST, rig.master.port), KEY, "liar", tmp_path, cluster="rig") as worker,
        client_of(rig.master) as client,
    ):
        worker.join()
        assert client.ask("dapi_fwd", f"liar {FORWARDED}").command == b"ok"
        assert "__wazuh_exception__" in json.loads(client.answer_of("dapi_err"))
        assert worker.keepalive() == b"keepalive"
    assert len(said) == 2


def test_small_answer_of_a_worker_reaches_the_asker(rig: Rig, tmp_path: Path, said: list[Any]) -> None:
    said.append(b'={"n": 1}')
    with (
        Liar((HOST, rig.master.port), KEY, "honest", tmp_path, cluster="rig") as worker,
        client_of(rig.master) as client,
    ):
        worker.join()
        client.ask("dapi_fwd", f"honest {FORWARDED}")
        assert client.answer_of("dapi_res") == b'{"n": 1}'
        name = said[1].split(b" ")[0]
        again = worker.connection.send_string(b'{"n": 2}')
        assert worker.ask("dapi_res", name + b" " + again.encode()).command == b"err"
    assert said[1].split(b" ", 1)[1].decode() == FORWARDED


def test_queued_request_may_only_be_answered_by_the_node_that_has_it(rig: Rig, tmp_path: Path, said: list[Any]) -> None:
    said.append(QUEUED)
    address = (HOST, rig.master.port)
    with (
        Liar(address, KEY, "honest", tmp_path / "a", cluster="rig") as honest,
        StockWorker(address, KEY, "other", tmp_path / "b", cluster="rig") as other,
        client_of(rig.master) as client,
    ):
        honest.join()
        other.join()
        client.ask("dapi_fwd", f"honest {FORWARDED}")
        wait_until(lambda: len(said) == 2, 60, "the honest node was asked")
        name = said[1].split(b" ")[0]
        for worker, content, command in ((other, b'{"lie": 1}', b"err"), (honest, b'{"n": 1}', b"ok")):
            string = worker.connection.send_string(content)
            assert worker.ask("dapi_res", name + b" " + string.encode()).command == command
        assert client.answer_of("dapi_res") == b'{"n": 1}'


# ---- things that break -----------------------------------------------------------------------------------------------


def test_answer_that_takes_long_comes_later(rig: Rig) -> None:
    """The master waits for a frozen worker: after a second its response says that the request is queued."""
    held = rig.processes("rig_manager_3")["sync"]
    assert held is not None
    signal_process(held, signal.SIGSTOP)
    try:
        with client_of(rig.workers[0]) as client:
            wanted = {"node_list": ["rig_manager_3"], "master_md5": {}}
            names = [node.name for node in rig.nodes]
            fields = {"request_type": "distributed_master", "nodes": names}
            client.ask("dapi", request("wazuh.cluster", "get_ruleset_sync_status", wanted, **fields))
            time.sleep(1.5)  # what is tested is that this time passes
            signal_process(held, signal.SIGCONT)
            answer = json.loads(client.answer_of("dapi_res"))
    finally:
        signal_process(held, signal.SIGCONT)
    assert [item["name"] for item in result(answer)["affected_items"]] == ["rig_manager_3"]


def test_sync_that_dies_with_an_open_request_answers_by_its_net(rig: Rig, tmp_path: Path) -> None:
    """The kill comes before the response, or after the node has said that the answer comes later."""
    log = (rig.master.root / "logs/cluster.log").read_text
    before = log().count("get_ruleset_sync_status from w")
    held, sync = rig.processes("rig_manager_2")["sync"], rig.processes("rig_manager_1")["sync"]
    assert held is not None
    assert sync is not None
    signal_process(held, signal.SIGSTOP)
    wanted = {"node_list": ["rig_manager_2"], "master_md5": {}}
    fields = {"request_type": "distributed_master", "nodes": ["rig_manager_1", "rig_manager_2"]}
    asked = request("wazuh.cluster", "get_ruleset_sync_status", wanted, **fields)
    try:
        with StockWorker((HOST, rig.master.port), KEY, "w", tmp_path, cluster="rig") as worker:
            worker.join()
            worker.ask("caps", '["answer"]')
            assert worker.ask("dapi_now", f"1 {asked}").payload == QUEUED
            worker.connection.link.tell("dapi_now", f"2 {asked}")
            wait_until(lambda: log().count("get_ruleset_sync_status from w") == before + 2, 60, "the master has both")
            signal_process(sync, signal.SIGKILL)

            def told() -> bool:
                heard = [one for one in list(worker.record) if not one.sent]
                late = {one.payload[:2] for one in heard if one.command == "dapi_err"}
                # On a busy machine the node's second may have passed before the kill.
                refused = any(one.command == "err" and b"sync process was restarted" in one.payload for one in heard)
                return b"1 " in late and (refused or b"2 " in late)

            wait_until(told, 60, "both are told")
    finally:
        signal_process(held, signal.SIGCONT)
    wait_until(rig.are_connected, 60, "the new sync process knows its workers")
