"""Bytes and connections that no peer should send: refused or closed with one log line; nothing stays reserved, and no
other peer is disturbed."""

import os
import resource
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from clusterd.messages.links import PeerRequest, Reply
from tests.net.harness import KEY, NetNode, Talker, wait_until
from tests.net.test_fence import OSSEC
from tools.rig.peer import (
    HEADER,
    build_frames,
    command_field,
    divided_without_end,
    garbage,
    half_header,
    huge_length,
    seal,
)

Master = Callable[..., NetNode]
WRONG_KEY = "fedcba9876543210fedcba9876543210"


def handshake_lines(node: NetNode) -> list[str]:
    return node.lines("Error during handshake with incoming connection")


def test_a_wrong_key_closes_the_connection_with_error_3025(master: Master) -> None:
    node = master()
    client = node.connect()
    for frame in build_frames(b"hello", 1, b"w1 wazuh worker 4.14.1", WRONG_KEY):
        client.send(frame)
    assert client.is_closed()
    assert handshake_lines(node) == [
        "ERROR: [Worker] [Main] Error during handshake with incoming connection: "
        "Error 3025 - Could not decrypt message."
    ]
    assert KEY not in node.log()


def test_a_foreign_program_at_the_port_is_named_with_its_address(master: Master) -> None:
    node = master()
    with socket.create_connection(("127.0.0.1", node.settings.cluster.port), timeout=30) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert browser.recv(1) == b""
    node.logged("WARNING: [Worker] [Net] Refused 127.0.0.1: it speaks HTTP, this is a cluster port.")


def test_a_length_of_4_gib_is_closed_before_anything_is_reserved(master: Master) -> None:
    node = master()
    before = psutil.Process(node.pid).memory_info().vms
    client = node.connect()
    client.send(huge_length())
    assert client.is_closed()
    assert "a frame announces 4294967295 bytes, more than 8192" in handshake_lines(node)[0]
    assert psutil.Process(node.pid).memory_info().vms - before < 64 << 20


def test_garbage_closes_the_connection_with_one_log_line_however_often_it_is_sent(master: Master) -> None:
    node = master()
    for seed in range(20):
        client = node.connect()
        client.send(garbage(4096, seed))
        assert client.is_closed()
    assert 1 <= len(handshake_lines(node)) <= 3
    node.join("w1")


def test_half_a_header_and_silence_ends_at_the_handshake_deadline(master: Master) -> None:
    node = master(handshake_timeout_s=0.3)
    silent, half = node.connect(), node.connect()
    half.send(half_header())
    assert half.is_closed()
    assert silent.is_closed()
    assert handshake_lines(node) == [
        "ERROR: [Worker] [Main] Error during handshake with incoming connection: no hello in 0.3 seconds."
    ]


def test_a_stranger_gets_no_room_for_a_large_or_divided_message(master: Master) -> None:
    node = master()
    for frames in (
        [HEADER.pack(1, 8193, command_field(b"hello", False, False))],
        divided_without_end(20, 1000),
    ):
        client = node.connect()
        for frame in frames:
            try:
                client.send(frame)
            except OSError:
                break
        assert client.is_closed()


def test_a_divided_message_without_end_is_bounded(master: Master) -> None:
    node = master(divided_bytes=12_000_000)
    client, other = node.join("w1"), node.join("w2")
    pieces = iter(divided_without_end(40, 5_242_860))
    with pytest.raises(OSError):
        deque(map(client.send, pieces))
    node.logged("Error during connection with 'w1': divided messages with more than 12000000 bytes are unfinished.")
    assert other.ask("echo", bytes(1_000)).payload == bytes(1_000)
    # Its slabs are free again: another node can use all of them.
    node.join("w3").tell("echo", bytes(5_000_000))
    assert node.sync is not None
    assert node.sync.expect(PeerRequest).body


def test_a_message_begun_and_not_continued_ends_its_link(master: Master) -> None:
    node = master(divided_timeout_s=0.5)
    client, other = node.join("w1"), node.join("w2")
    client.send(HEADER.pack(5, 6_000_000, command_field(b"file_upd", False, False)) + bytes(1000))
    assert client.is_closed()
    node.logged("Error during connection with 'w1': a message was begun and not continued for 0.5 seconds.")
    assert other.ask("echo", "x").payload == b"x"


def test_damage_on_an_established_link_ends_it_with_one_line(master: Master) -> None:
    node = master()
    client = node.join("w1")
    client.send(HEADER.pack(9, 100, command_field(b"echo", False, False)) + bytes(100))
    assert client.is_closed()
    assert node.logged("3025") == (
        "ERROR: [Worker w1] [Main] Error during connection with 'w1': Error 3025 - Could not decrypt message."
    )


@pytest.mark.slow
def test_hundreds_of_idle_connections_do_not_keep_a_node_out(master: Master) -> None:
    node = master(handshakes=100, connections=400, connections_per_address=300)
    idle = [socket.create_connection(node.address) for _ in range(600)]
    client = node.join("w1")
    wait_until(lambda: node.counter("handshakes") <= 100, "the idle ones are at most 100")
    assert client.ask("echo", "x").payload == b"x"
    assert 1 <= len(handshake_lines(node)) <= 3
    assert len(node.log()) < 40_000
    for sock in idle:
        sock.close()


def test_nodes_fill_the_limit_of_an_address_and_the_next_one_is_refused_in_words(master: Master) -> None:
    node = master(connections_per_address=3)
    nodes = [node.join(f"w{number}") for number in range(3)]
    fourth = node.connect()
    assert fourth.is_closed()
    node.logged("[Net] Refused a connection from 127.0.0.1: 3 connections from this address, no more are allowed.")
    assert all(client.ask("echo", "x").payload == b"x" for client in nodes)
    nodes[0].close()
    wait_until(lambda: node.counter("connections") == 2, "its place is free")
    node.join("w4")
    assert node.counter("refused") == 1


@pytest.mark.slow
def test_a_peer_that_does_not_read_is_not_read_either(master: Master) -> None:
    """wire.md R5: answers to it must not pile up in the node's memory."""
    node = master()
    greedy, other = node.join("greedy"), node.join("w2")
    greedy.sock.setblocking(False)
    frame = b"".join(build_frames(b"echo", 1, bytes(40_000), KEY))
    before = psutil.Process(node.pid).memory_info().rss
    sent = 0
    quiet_since = time.monotonic()
    while sent < 400_000_000 and time.monotonic() - quiet_since < 0.5:
        try:
            sent += greedy.sock.send(frame[sent % len(frame) :])
            quiet_since = time.monotonic()
        except BlockingIOError:
            assert other.ask("echo", "x").payload == b"x"
    assert sent < 100_000_000
    assert psutil.Process(node.pid).memory_info().rss - before < 32 << 20


@pytest.mark.slow
def test_a_node_with_many_unanswered_requests_is_held_back_and_goes_on_later(master: Master) -> None:
    node = master(requests_per_link=4)
    client, other = node.join("w1"), node.join("w2")
    sender = threading.Thread(target=lambda: [client.tell("new_str", bytes(40_000)) for _ in range(500)])
    sender.start()
    sync = node.sync
    assert sync is not None
    waiting = [sync.expect(PeerRequest) for _ in range(4)]
    sync.quiet(PeerRequest, 0.3)
    held = [message for message in sync.received if isinstance(message, PeerRequest)]
    assert len(held) <= 4
    assert sender.is_alive()
    assert other.ask("echo", "x").payload == b"x"
    for request in waiting:
        sync.send(Reply(request.link, request.serial, "ok", b"1"))
    sync.answer_with(lambda request: Reply(request.link, request.serial, "ok", b"1"))
    assert [client.read().payload for _ in range(500)] == [b"1"] * 500
    sender.join()


@pytest.mark.slow
def test_the_local_socket_bounds_its_clients_and_their_frames(master: Master) -> None:
    node = master(local_clients=2)
    first, second = node.local(), node.local()
    assert first.ask("echo", "x").payload == second.ask("echo", "x").payload == b"x"
    assert node.local().is_closed()
    node.logged("[Local Server] [Net] Refused a local client: 2 are connected, no more are allowed.")
    second.send(huge_length(command=b"echo"))
    assert second.is_closed()
    assert first.ask("echo", "y").payload == b"y"


@pytest.mark.slow
def test_strangers_from_thousands_of_addresses_fill_no_log(master: Master) -> None:
    node = master(log_lines=20, connections_per_network=20)
    for number in range(1500):
        source = f"127.{number % 5 + 1}.{number // 250}.{number % 250 + 1}"
        with socket.create_connection(node.address, timeout=60, source_address=(source, 0)) as client:
            client.send(garbage(200, number))
    node.join("w1")
    node.logged("lines like these were left out: more than 20 in 10 s.", 30)
    assert len(node.log().splitlines()) < 150
    assert len(node.lines("Connection from")) == 1  # of the node: it has our key


def test_what_holders_of_the_key_do_wrong_is_in_the_log_in_a_flood_of_strangers_too(master: Master) -> None:
    node = master(log_lines=5)
    for number in range(50):
        with socket.create_connection(node.address, timeout=60, source_address=(f"127.3.0.{number + 1}", 0)) as client:
            client.send(garbage(200, number))
    node.logged("Error during handshake with incoming connection")
    assert node.connect().ask("hello", "w9 wazuh worker 4.13.0").command == b"err"
    node.logged("Internal error processing request 'b'hello'': Error 3031")
    assert node.connect().ask("echo", "x").command == b"err"
    node.logged("no command but hello is answered before hello")


def test_a_network_has_its_share_of_connections(master: Master) -> None:
    node = master(connections_per_network=3)
    for number in range(3):
        source = (f"127.0.7.{number + 1}", 0)
        talker = Talker(socket.create_connection(node.address, timeout=60, source_address=source), KEY)
        node._clients.append(talker)
        assert talker.ask("hello", f"w{number} wazuh worker 4.14.1").command == b"ok"
    with socket.create_connection(node.address, timeout=60, source_address=("127.0.7.99", 0)) as fourth:
        assert fourth.recv(1) == b""
    node.logged("[Net] Refused a connection from 127.0.7.99: 3 connections from this network, no more are allowed.")
    node.join("w4")


def test_no_bytes_of_a_stranger_reach_the_log(master: Master) -> None:
    node = master()
    client = node.connect()
    text = "w1\n2026/01/01 00:00:00 ERROR: [Master] [Main] forged"
    body = seal(KEY, f"{text} wazuh worker 4.14.1".encode())
    client.send(HEADER.pack(1, len(body), command_field(b"hello", False, False)) + body)
    Talker.read(client)
    client.tell("a\nforged", "x")
    client.read()
    assert not [line for line in node.log().splitlines() if not line.startswith("20")]
    assert not node.lines("[Main] forged")


def test_more_connections_by_a_reload_are_more_open_files(master: Master) -> None:
    """Else the system would refuse connections that the settings allow."""
    node = master()
    _, hard = resource.prlimit(node.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (100, hard))
    Path(node.root, "etc/ossec.conf").write_text(OSSEC.replace("worker", "master"))
    Path(node.root, "etc/cluster.json").write_text('{"clusterd": {"limits": {"connections": 300}}}')
    os.kill(node.pid, signal.SIGHUP)
    wait_until(lambda: resource.prlimit(node.pid, resource.RLIMIT_NOFILE)[0] > 300, "more files are allowed")
