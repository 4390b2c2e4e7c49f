"""The local socket."""

import os
import socket
import stat
from collections.abc import Callable

import pytest

from clusterd.messages.links import Answered, LinkDown, PeerRequest, Reply, Request
from clusterd.rundir import local_socket
from clusterd.settings import Settings
from tests.net.harness import NetNode, master_settings, wait_until
from tools.rig.ports import free_port

Master = Callable[..., NetNode]
Start = Callable[..., NetNode]


def test_the_socket_is_open_to_owner_and_group_and_removed_when_net_stops(master: Master) -> None:
    node = master()
    path = local_socket(node.root)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    node.logged(f"INFO: [Local Server] [Main] Serving on {path}")
    node.stop()
    assert not os.path.exists(path)


def test_a_stale_socket_file_is_replaced(start: Start) -> None:
    def settings_of(root: str) -> Settings:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(local_socket(root))
        return master_settings(root)

    assert start(settings_of).local().ask("echo", "x").payload == b"x"


def test_a_client_is_answered_without_hello_and_without_encryption(master: Master) -> None:
    node = master()
    client = node.local()
    assert node.sync is not None
    info = node.sync.link(kind="local")
    assert 0 <= int(info.name) < 1 << 20
    assert (client.ask("echo", b"\0x").payload, client.ask("echo-c", "keepalive").command) == (b"\0x", b"ok-m")
    counter = client.tell("get_nodes", "{}")
    request = node.sync.expect(PeerRequest)
    assert (request.link, request.command, request.payload) == (info.link, "get_nodes", b"{}")
    node.sync.send(Reply(info.link, request.serial, "ok", b'{"items": []}'))
    assert client.answer_to(counter).payload == b'{"items": []}'
    assert client.ask("hello", "x").payload == b"unknown command 'b'hello''"
    assert client.ask("syn_i_w_m_p").command == b"err"
    client.close()
    assert node.sync.expect(LinkDown).link == info.link


def test_the_daemon_asks_a_client_and_gets_its_answer(master: Master) -> None:
    node = master()
    client = node.local()
    assert node.sync is not None
    link = node.sync.link(kind="local").link
    node.sync.send(Request(link, 3, "control_res", b"{}"))
    request = client.read()
    assert (request.command, request.payload) == (b"control_res", b"{}")
    client.respond(request, "ok", "Response received")
    assert node.sync.expect(Answered) == Answered(3, "ok", b"Response received")


def test_large_messages_pass_unsealed_both_ways(master: Master) -> None:
    node = master()
    client = node.local()
    sync = node.sync
    assert sync is not None
    content = bytes(range(256)) * 12_000
    for _ in range(12):
        assert client.ask("echo", content).payload == content
    counter = client.tell("dapi", content)
    request = sync.expect(PeerRequest)
    assert request.body is not None
    assert b"".join(bytes(node.arena.slice(part)) for part in request.body) == content
    sync.send(Reply(request.link, request.serial, "ok", content))
    assert client.answer_to(counter).payload == content


def test_a_client_that_closes_at_once_disturbs_no_other_client(master: Master) -> None:
    node = master()
    for _ in range(50):
        client = node.local()
        client.tell("get_nodes", "{}")
        client.reset()
    assert node.local().ask("echo", "x").payload == b"x"


def test_a_client_without_keepalives_is_dropped(master: Master) -> None:
    node = master(check_worker_lastkeepalive_s=0.5, max_allowed_time_without_keepalive_s=0.6)
    client = node.local()
    assert client.is_closed()
    assert "ERROR: [Local Server] [Keep alive] No keep alives have been received from " in node.log()


def test_a_socket_that_cannot_be_made_is_a_reason_not_to_start(start: Start) -> None:
    def settings_of(root: str) -> Settings:
        os.mkdir(local_socket(root))
        return master_settings(root)

    with pytest.raises(AssertionError, match="net ended at once"):
        start(settings_of, with_sync=False)


def test_a_port_in_use_ends_net_with_the_reason(start: Start) -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        node = NetNode(lambda root: master_settings(root, port=port))
        try:
            node.spawn()
            assert wait_until(node.ended, "net ends") == 3
            with open(f"{node.root}/var/run/clusterd/reason", encoding="utf-8") as file:
                reason = file.read()
            assert reason.startswith(f"port {port} of 127.0.0.1 cannot be used: ")
            assert reason.count("\n") == 1
            assert node.lines("ERROR: [Master] [Main] Could not start master: [Errno 98]")
        finally:
            node.close()


def test_a_client_is_known_by_its_user(master: Master) -> None:
    node = master()
    node.local()
    assert node.sync is not None
    assert node.sync.link(kind="local").uid == os.getuid()


def test_a_request_that_ends_without_a_response_gets_none_and_frees_its_place(master: Master) -> None:
    """dapi.md 1.3: `sendsync` has no response; its answer is a request of the daemon's."""
    node = master(requests_per_link=2)
    client = node.local()
    sync = node.sync
    assert sync is not None
    link = sync.link(kind="local").link
    for number in range(5):
        client.tell("get_nodes", str(number))
        request = sync.expect(PeerRequest)
        assert request.payload == str(number).encode()
        sync.send(Request(link, number, "ok", b"answer"))
        answer = client.read()
        assert (answer.command, answer.payload) == (b"ok", b"answer")
        client.respond(answer, "ok", "thanks")
        assert sync.expect(Answered).id == number
        sync.send(Reply(link, request.serial, ""))
    assert client.ask("echo", "x").payload == b"x"


def test_a_request_that_was_answered_in_part_keeps_no_other_message_unread(master: Master) -> None:
    """The rest of its answer is a long string, which the program must accept: its responses are read with its
    requests."""
    node = master(requests_per_link=2)
    client = node.local()
    sync = node.sync
    assert sync is not None
    link = sync.link(kind="local").link
    counters = [client.tell("get_nodes", str(number)) for number in range(2)]
    requests = [sync.expect(PeerRequest) for _ in counters]
    client.tell("get_nodes", "2")
    assert sync.quiet(PeerRequest)
    for counter, request in zip(counters, requests, strict=True):
        sync.send(Reply(link, request.serial, "ok", b"queued", more=True))
        assert client.answer_to(counter).payload == b"queued"
    requests.append(sync.expect(PeerRequest))
    assert requests[-1].payload == b"2"
    sync.send(Request(link, 7, "new_str", b"190"))
    client.respond(client.read(), "ok", "55")
    assert sync.expect(Answered).payload == b"55"
    for request in requests:
        sync.send(Reply(link, request.serial, ""))
    assert client.ask("echo", "x").payload == b"x"


def test_answer_by_a_request_of_ours_frees_the_place_before_the_program_responds(master: Master) -> None:
    """dapi.md 1.3: `sendsync`. Nothing is written for that, and the program's response is read."""
    node = master(requests_per_link=2)
    client = node.local()
    sync = node.sync
    assert sync is not None
    link = sync.link(kind="local").link
    for number in range(2):
        client.tell("get_nodes", str(number))
    requests = [sync.expect(PeerRequest) for _ in range(2)]
    for request in requests:
        sync.send(Reply(link, request.serial, "", more=True))
        sync.send(Request(link, request.serial, "ok", b"answer"))
        answer = client.read()
        assert (answer.command, answer.payload) == (b"ok", b"answer")
        client.respond(answer, "ok", "thanks")
        assert sync.expect(Answered).id == request.serial
        sync.send(Reply(link, request.serial, ""))
    assert client.ask("echo", "x").payload == b"x"


def test_a_client_that_waits_for_us_is_not_dropped_for_its_silence(master: Master) -> None:
    """The daemons wait up to 600 s for the answer to a sendsync and send no keepalives (wdb.md 9.2)."""
    node = master(check_worker_lastkeepalive_s=0.2, max_allowed_time_without_keepalive_s=0.4)
    client = node.local()
    assert node.sync is not None
    link = node.sync.link(kind="local").link
    client.tell("get_nodes")
    request = node.sync.expect(PeerRequest)
    assert not client.is_closed(1.5)
    node.sync.send(Reply(link, request.serial, ""))
    assert client.is_closed()
