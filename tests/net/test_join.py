"""Workers at a master's port: hello and what is answered when, against the running process."""

import json
import os
from collections.abc import Callable

import pytest

from clusterd.messages.links import KeepaliveSeen, LinkDown, LinkUp, PeerRequest, Reply
from tests.net.harness import CLUSTER, MASTER, VERSION, NetNode, wait_until

Master = Callable[..., NetNode]


def exception(code: int, extra: str | None, kind: str = "Wazuh Cluster Error") -> dict[str, object]:
    return {
        "__wazuh_exception__": {
            "__class__": kind.replace(" ", ""),
            "__object__": {
                "type": "about:blank",
                "title": kind,
                "code": code,
                "extra_message": extra,
                "extra_remediation": None,
                "cmd_error": False,
                "dapi_errors": {},
            },
        }
    }


def test_a_worker_joins_and_sync_learns_of_it(master: Master) -> None:
    node = master()
    node.join("w1")
    assert node.sync is not None
    info = node.sync.link("w1")
    assert (info.kind, info.node_type, info.version, info.address) == ("worker", "worker", VERSION, "127.0.0.1")
    wait_until(lambda: os.path.isdir(f"{node.root}/queue/cluster/w1"), "the node's directory")
    assert f"INFO: [Master] [Main] Serving on ('127.0.0.1', {node.settings.cluster.port})" in node.log()
    assert node.lines("[Worker] [Main] Connection from ('127.0.0.1', ")
    assert "DEBUG: [Worker] [Main] Command received: b'hello'" in node.log()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (f"w1 {CLUSTER} worker {VERSION}", exception(3028, "w1")),
        (f"{MASTER} {CLUSTER} worker {VERSION}", exception(3029, None)),
        (f"w2 other worker {VERSION}", exception(3030, None)),
        (f"w2 {CLUSTER} worker 4.14.0", exception(3031, None)),
        (
            f"w2 {CLUSTER} worker",
            exception(1000, "not enough values to unpack (expected 4, got 3)", "Wazuh Internal Error"),
        ),
        (
            f"w 2 {CLUSTER} worker {VERSION}",
            exception(1000, "too many values to unpack (expected 4)", "Wazuh Internal Error"),
        ),
    ],
)
def test_a_refused_worker_reads_why_and_is_never_registered(
    master: Master, payload: str, expected: dict[str, object]
) -> None:
    node = master()
    first = node.join("w1")
    stranger = node.connect()
    answer = stranger.ask("hello", payload)
    assert answer.command == b"err"
    assert json.loads(answer.payload) == expected
    code = expected["__wazuh_exception__"]["__object__"]["code"]  # type: ignore[index]
    line = node.logged(f"Internal error processing request 'b'hello'': Error {code} - ")
    assert line.startswith("ERROR: [Worker] [Main] ")
    assert node.sync is not None
    assert node.sync.link().name == "w1"
    assert node.sync.quiet(LinkUp, 0.05)
    assert first.ask("echo", "still here").payload == b"still here"


def test_a_refused_connection_is_closed_soon(master: Master) -> None:
    node = master()
    stranger = node.connect()
    stranger.ask("hello", f"w1 other worker {VERSION}")
    assert stranger.is_closed()
    assert not node.lines("handshake")


def test_a_name_that_is_a_path_is_refused_and_no_directory_is_touched(master: Master) -> None:
    node = master()
    os.mkdir(f"{node.root}/stats")
    answer = node.connect().ask("hello", f"../../stats {CLUSTER} worker {VERSION}")
    assert answer.command == b"err"
    assert b"a node name has only letters" in answer.payload
    assert os.listdir(f"{node.root}/queue/cluster") == ["c-internal.sock"]


def test_a_refused_worker_may_try_again_on_the_same_connection(master: Master) -> None:
    node = master()
    client = node.connect()
    assert client.ask("hello", f"w1 other worker {VERSION}").command == b"err"
    assert client.ask("hello", f"w1 {CLUSTER} worker {VERSION}").command == b"ok"
    assert not client.is_closed(timeout_s=1.5)


def test_a_second_hello_changes_nothing(master: Master) -> None:
    node = master()
    client = node.join("w1")
    assert json.loads(client.ask("hello", f"w1 {CLUSTER} worker {VERSION}").payload) == exception(3028, "w1")
    other = client.ask("hello", f"w2 {CLUSTER} worker {VERSION}")
    assert other.command == b"err"
    client.close()
    assert node.sync is not None
    node.sync.expect(LinkDown)
    node.join("w1")
    node.join("w2")


def test_everything_before_hello_is_refused(master: Master) -> None:
    node = master()
    client = node.connect()
    for command in ("echo", "echo-c", "new_file", "syn_i_w_m_p", "get_nodes", "nope"):
        answer = client.ask(command, "x")
        assert answer.command == b"err"
        assert json.loads(answer.payload)["__wazuh_exception__"]["__object__"]["code"] == 1000
    assert node.sync is not None
    assert node.sync.quiet(PeerRequest)
    assert len(node.lines("Internal error processing request 'b'")) == 1


def test_the_version_rule_minor_lets_another_patch_release_join(master: Master) -> None:
    node = master(version_rule="minor")
    assert node.connect().ask("hello", f"w1 {CLUSTER} worker 4.14.9").command == b"ok"
    assert node.connect().ask("hello", f"w2 {CLUSTER} worker 4.13.1").command == b"err"


def test_echo_and_keepalive_are_answered_by_net(master: Master) -> None:
    node = master()
    client = node.join("w1")
    counter = client.tell("echo", b"\x00abc")
    answer = client.answer_to(counter)
    assert (answer.command, answer.payload) == (b"ok", b"\x00abc")
    answer = client.ask("echo-c", "keepalive")
    assert (answer.command, answer.payload) == (b"ok-m", b"keepalive")
    assert node.sync is not None
    assert node.sync.expect(KeepaliveSeen).link == node.sync.link("w1").link
    assert node.sync.quiet(PeerRequest)


def test_commands_of_another_role_and_unknown_ones_are_unknown(master: Master) -> None:
    node = master()
    client = node.join("w1")
    for command in (
        "echo-m",
        "syn_m_c_ok",
        "sendsyn_res",
        "nope",
        "ok",
        "dapi_clus",
        "syn_e_w_m_r",
        "get_config",
    ):
        answer = client.ask(command, "zz")
        assert (answer.command, answer.payload) == (b"err", f"unknown command 'b'{command}''".encode())


def test_a_request_goes_to_sync_and_its_reply_to_the_peer(master: Master) -> None:
    node = master()
    client = node.join("w1")
    assert node.sync is not None
    link = node.sync.link("w1").link
    counters = [client.tell("syn_i_w_m_p"), client.tell("new_str", "12")]
    first = node.sync.expect(PeerRequest, lambda request: request.command == "syn_i_w_m_p")
    second = node.sync.expect(PeerRequest, lambda request: request.command == "new_str")
    assert (first.link, second.payload) == (link, b"12")
    node.sync.send(Reply(link, second.serial, "ok", b"77"))
    node.sync.send(Reply(link, first.serial, "err", b"no", log="Error 1000 - Wazuh Internal Error: no"))
    assert client.answer_to(counters[1]).payload == b"77"
    assert client.answer_to(counters[0]).payload == b"no"
    node.logged("[Worker w1] [Main] Internal error processing request 'b'syn_i_w_m_p'': Error 1000 - Wazuh Internal")


def test_a_worker_that_leaves_is_forgotten_and_may_come_back_at_once(master: Master) -> None:
    node = master()
    client = node.join("w1")
    assert node.sync is not None
    link = node.sync.link("w1").link
    client.close()
    assert node.sync.expect(LinkDown).link == link
    node.logged("DEBUG: [Worker w1] [Main] Disconnected w1.")
    node.logged("INFO: [Worker w1] [Main] Cancelling pending tasks.")
    node.join("w1")
    assert node.sync.link("w1").link != link


def test_a_worker_that_is_reset_is_logged_as_a_failure(master: Master) -> None:
    node = master()
    client = node.join("w1")
    client.reset()
    line = node.logged("Error during connection with 'w1': ")
    assert line.startswith("ERROR: [Worker w1] [Main] ")


@pytest.mark.slow
def test_a_silent_worker_is_disconnected_with_the_stock_line(master: Master) -> None:
    node = master(check_worker_lastkeepalive_s=0.5, max_allowed_time_without_keepalive_s=1.0)
    silent, alive = node.join("silent"), node.join("alive")

    def keep_alive() -> list[str]:
        alive.ask("echo-c", "keepalive")
        return node.lines("No keep alives")

    silent.ask("echo", "this does not count")
    wait_until(keep_alive, "the silent worker is noticed")
    assert silent.is_closed()
    assert node.lines("No keep alives") == [
        "ERROR: [Master] [Keep alive] No keep alives have been received from silent in the last minute. Disconnecting"
    ]
    node.logged("Disconnected silent.")
    assert node.lines("DEBUG: [Master] [Keep alive] Calculating.")
    assert node.lines("DEBUG: [Master] [Keep alive] Calculated.")
    assert alive.ask("echo", "x").payload == b"x"
