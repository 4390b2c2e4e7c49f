"""The REST API when nodes, processes or certificates fail."""

import signal
import socket
import threading

import httpx
import pytest

from tests.conftest import MakeRig
from tests.system.rest import MASTER, NAMES, OVERRIDES, PASSWORD, SECOND, Caller, turn_on
from tools.api_setup import self_signed
from tools.rig.faults import signal_process
from tools.rig.peer import wait_until
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow


def test_a_killed_node_is_a_failed_item_and_not_a_hang(make_rig: MakeRig) -> None:
    rig = make_rig(2, overrides=OVERRIDES)
    turn_on(rig, rig.workers[0])
    rig.start()
    rig.wait_equal(60)
    held = rig.processes(SECOND)
    with Caller(rig.workers[0]) as caller:
        assert len(caller.items("/cluster/nodes")) == 3
        answers: list[httpx.Response] = []
        assert held["sync"] is not None
        assert held["supervisor"] is not None
        signal_process(held["sync"], signal.SIGSTOP)
        path = f"/cluster/ruleset/synchronization?nodes_list={','.join(NAMES)}"
        asking = threading.Thread(target=lambda: answers.append(caller.ask("GET", path)))
        asking.start()
        log = rig.workers[0].root / "logs/cluster.log"
        wait_until(lambda: "get_ruleset_sync_status from master" in log.read_text(), 60, "the nodes were asked")
        signal_process(held["supervisor"], signal.SIGKILL)
        asking.join(60)
        body = answers[0].json()
        assert [item["name"] for item in body["data"]["affected_items"]] == NAMES[:2]
        assert [(one["error"]["code"], one["id"]) for one in body["data"]["failed_items"]] == [(3022, [SECOND])]
        assert body["error"] == 2
        assert caller.failed(path) == {1730: [SECOND]}
        assert caller.failed(f"/cluster/{SECOND}/info") == {1730: [SECOND]}


def test_a_killed_api_process_comes_back_and_a_stop_is_clean(make_rig: MakeRig) -> None:
    rig = make_rig(0, overrides=OVERRIDES)
    turn_on(rig)
    rig.start()
    with Caller(rig.master) as caller:
        token = caller.token
        killed = rig.processes(MASTER)["api"]
        assert killed is not None
        signal_process(killed, signal.SIGKILL)
        wait_until(lambda: rig.processes(MASTER)["api"] not in (None, killed), 60, "it is back")
        with Caller(rig.master) as another:
            wait_until(lambda: _is_served(another), 60, "it serves")
            answer = another.ask("GET", "/", headers={"Authorization": f"Bearer {token}"})
            assert answer.status_code == 200
        facts = rig.status(MASTER)[MASTER]
        assert next(one for one in facts["processes"] if one["name"] == "api")["restarts"] == 1
        # The board has it with the next heartbeat.
        wait_until(lambda: rig.status(MASTER)[MASTER]["api"]["requests"] >= 1, 60, "its requests are counted")
        assert "REST API: " in rig.command(rig.master, "status", timeout_s=30).stdout
    assert rig.stop() == []
    with Caller(rig.master) as caller, pytest.raises(httpx.ConnectError):
        caller.login()
    log = (rig.master.root / "logs/cluster.log").read_text()
    assert "Traceback" not in log
    assert PASSWORD not in log


def _is_served(caller: Caller) -> bool:
    try:
        return caller.login().status_code == 200
    except httpx.TransportError:
        return False


def test_a_reload_takes_a_new_certificate_and_keeps_the_old_one_when_it_is_bad(make_rig: MakeRig) -> None:
    rig = make_rig(0, overrides=OVERRIDES)
    turn_on(rig)
    rig.start()
    cert, key = rig.master.root / "etc/clusterd-api.crt", rig.master.root / "etc/clusterd-api.key"
    old = cert.read_bytes()
    for path, content in zip((cert, key), self_signed("another"), strict=True):
        path.write_bytes(content)
    assert rig.command(rig.master, "reload", timeout_s=30).returncode == 0
    with Caller(rig.master) as caller:
        # It trusts only the new one.
        wait_until(lambda: _is_served(caller), 60, "the new certificate is used")
        cert.write_bytes(old)
        done = rig.command(rig.master, "reload", timeout_s=30)
        assert done.returncode == 2
        assert "does not belong to the certificate" in done.stderr
        assert _is_served(caller)


def test_an_absent_master_is_reported(make_rig: MakeRig) -> None:
    rig = make_rig(1, overrides=OVERRIDES)
    turn_on(rig, rig.workers[0])
    rig.start()
    rig.wait_equal(60)
    with Caller(rig.workers[0]) as caller:
        assert caller.items("/agents")
        rig.stop(MASTER)
        answer = caller.ask("GET", "/agents")
        assert (answer.status_code, answer.json()["error"]) == (500, 3023)
        assert caller.items("/cluster/local/info")


def test_what_keeps_the_api_from_starting_is_reported(make_rig: MakeRig) -> None:
    rig = make_rig(0, overrides=OVERRIDES)
    turn_on(rig)
    root = rig.master.root
    users = root / "etc/clusterd-api-users.json"
    token_key = root / "etc/clusterd-api-token.key"

    def refusal() -> str:
        done = rig.command(rig.master, "start", timeout_s=60)
        assert done.returncode == 3, done.stderr
        assert not rig.running()
        return done.stderr

    with Caller(rig.master) as caller:
        with socket.create_server((HOST, caller.port)):
            assert f"the REST API cannot listen on {HOST}:{caller.port}: Address already in use" in refusal()
    good = users.read_bytes()
    users.write_text("{}")
    assert "clusterd-api-users.json is damaged" in refusal()
    users.write_bytes(good)
    users.chmod(0o664)
    assert "is open to every user of this machine: chmod 640" in refusal()
    users.chmod(0o640)
    token_key.write_text("short")
    token_key.chmod(0o600)
    assert "clusterd-api-token.key is damaged; remove it" in refusal()
    token_key.unlink()
    rig.start()
