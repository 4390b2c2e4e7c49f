"""Large bodies through slabs, in both directions, and which link waits for which."""

import contextlib
import threading
from collections.abc import Callable

import psutil
import pytest

from clusterd.messages.links import Answered, LinkDown, PeerRequest, Release, Reply, Request, SlabsReturned, Unanswered
from clusterd.net import slabs
from clusterd.wire.frame import HEADER, command_field
from clusterd.wire.seal import Sealer
from ipc.descriptor import Descriptor
from tests.net.harness import KEY, NetNode, Talker, wait_until

Master = Callable[..., NetNode]
CHUNK = 5_242_880
SEALER = Sealer(KEY.encode())


def put(node: NetNode, plain: bytes, place: int = 0) -> Descriptor:
    """A sealed body in one of sync's slabs, as a pool process makes it."""
    slab = node.arena.sync_slabs[place]
    return Descriptor(slab, 0, SEALER.seal_into(plain, node.arena.view(slab)))


def opened(node: NetNode, body: list[Descriptor] | None) -> bytes:
    assert body is not None
    return SEALER.open(b"".join(bytes(node.arena.slice(part)) for part in body))


def test_a_large_request_reaches_sync_sealed_in_a_slab(master: Master) -> None:
    node = master()
    client = node.join("w1")
    payload = b"/queue/x.zip " + bytes(range(256)) * 20_000
    counter = client.tell("file_upd", payload)
    sync = node.sync
    assert sync is not None
    request = sync.expect(PeerRequest)
    assert opened(node, request.body) == payload
    sync.send(Reply(request.link, request.serial, "ok", b"File updated"))
    assert client.answer_to(counter).payload == b"File updated"


@pytest.mark.slow
def test_a_divided_request_arrives_as_one_descriptor_for_each_fragment(master: Master) -> None:
    node = master()
    client = node.join("w1")
    payload = bytes(8_000_000)
    client.tell("dapi_res", payload)
    assert node.sync is not None
    request = node.sync.expect(PeerRequest)
    assert request.body is not None
    assert len(request.body) == 3
    assert opened(node, request.body) == payload


@pytest.mark.slow
def test_a_large_echo_is_checked_by_sync_and_goes_back_from_its_slab(master: Master) -> None:
    node = master()
    client = node.join("w1")
    sync = node.sync
    assert sync is not None
    for command, answer in (("echo", b"ok"), ("echo-c", b"ok-m")):
        payload = command.encode() * 600_000
        counter = client.tell(command, payload)
        request = sync.expect(PeerRequest)
        assert request.command == "echo"
        sync.send(Reply(request.link, request.serial, "ok", body=request.body))
        message = client.answer_to(counter)
        assert (message.command, message.payload) == (answer, payload)
    # More rounds than there are slabs: each slab became free when it was written.
    for _ in range(12):
        counter = client.tell("echo", bytes(300_000))
        request = sync.expect(PeerRequest)
        sync.send(Reply(request.link, request.serial, "ok", body=request.body))
        client.answer_to(counter)


def test_a_body_of_sync_is_sent_whole_and_its_slab_comes_back(master: Master) -> None:
    node = master()
    client = node.join("w1")
    sync = node.sync
    assert sync is not None
    link = sync.link("w1").link
    payload = bytes(range(256)) * (CHUNK // 256)
    sync.send(Request(link, 41, "file_upd", body=[put(node, payload)]))
    request = client.read()
    assert (request.command, request.payload == payload) == (b"file_upd", True)
    assert sync.expect(SlabsReturned).slabs == [node.arena.sync_slabs[0]]
    client.respond(request, "ok", "File updated")
    answer = sync.expect(Answered)
    assert (answer.id, answer.command, answer.payload) == (41, "ok", b"File updated")


def test_a_large_answer_reaches_sync_sealed(master: Master) -> None:
    node = master()
    client = node.join("w1")
    sync = node.sync
    assert sync is not None
    link = sync.link("w1").link
    for number in range(12):
        sync.send(Request(link, number, "get_nodes"))
        client.respond(client.read(), "ok", bytes(500_000))
        answer = sync.expect(Answered)
        assert opened(node, answer.body) == bytes(500_000)
        assert answer.body
        sync.send(Release([part.slab for part in answer.body]))


def test_requests_to_a_link_that_is_gone_fail_at_once_and_give_their_slab_back(master: Master) -> None:
    node = master()
    client = node.join("w1")
    sync = node.sync
    assert sync is not None
    link = sync.link("w1").link
    sync.send(Request(link, 1, "syn_m_c"))
    client.read()
    client.close()
    assert sync.expect(Unanswered) == Unanswered(1, "closed")
    sync.expect(LinkDown)
    sync.send(Request(link, 2, "file_upd", body=[put(node, b"x")]))
    assert sync.expect(SlabsReturned).slabs == [node.arena.sync_slabs[0]]
    assert sync.expect(Unanswered) == Unanswered(2, "closed")


def test_a_missing_answer_is_a_timeout_and_a_late_one_is_dropped(master: Master) -> None:
    node = master()
    client = node.join("w1")
    sync = node.sync
    assert sync is not None
    link = sync.link("w1").link
    sync.send(Request(link, 5, "syn_m_c", timeout_s=0.1))
    request = client.read()
    assert sync.expect(Unanswered) == Unanswered(5, "timeout")
    client.respond(request, "ok", "late")
    assert client.ask("echo", "x").payload == b"x"
    assert sync.quiet(Answered)


def test_a_command_that_cannot_be_sent_is_refused(master: Master) -> None:
    node = master()
    node.join("w1")
    sync = node.sync
    assert sync is not None
    link = sync.link("w1").link
    sync.send(Request(link, 6, "a" * 12, body=[put(node, b"x")]))
    refused = sync.expect(Unanswered)
    assert (refused.why, refused.text[:10]) == ("refused", "Error 3024")
    assert sync.expect(SlabsReturned).slabs == [node.arena.sync_slabs[0]]


@pytest.mark.slow
def test_a_slow_reader_gets_slices_and_small_answers_overtake_waiting_bodies(master: Master) -> None:
    node = master()
    slow, quick = node.join("slow"), node.join("quick")
    sync = node.sync
    assert sync is not None
    slow_link, quick_link = sync.link("slow").link, sync.link("quick").link
    for place in range(3):
        sync.send(Request(slow_link, place, "file_upd", body=[put(node, bytes(CHUNK), place)]))
    sync.send(Request(quick_link, 9, "file_upd", body=[put(node, bytes(CHUNK), 3)]))
    assert len(quick.read().payload) == CHUNK
    assert sync.expect(SlabsReturned).slabs == [node.arena.sync_slabs[3]]
    # The slow peer has not read: at most its kernel buffers are full, and its slabs stay in use.
    assert sync.quiet(SlabsReturned)
    counter = slow.tell("echo", "overtakes")
    assert quick.ask("echo", "x").payload == b"x"
    order = [slow.read().counter for _ in range(4)]
    assert counter in order[:3]
    returned = [slab for _ in range(3) for slab in sync.expect(SlabsReturned).slabs]
    assert sorted(returned) == list(node.arena.sync_slabs[:3])


@pytest.mark.slow
def test_an_unsent_body_is_taken_back_when_its_request_has_timed_out(master: Master) -> None:
    node = master()
    slow = node.join("slow")
    sync = node.sync
    assert sync is not None
    link = sync.link("slow").link
    for place in range(3):
        sync.send(Request(link, place, "file_upd", body=[put(node, bytes(CHUNK), place)], timeout_s=0.3))
    assert sorted(sync.expect(Unanswered).why for _ in range(3)) == ["timeout", "unsent", "unsent"]
    returned = sync.expect(SlabsReturned).slabs + sync.expect(SlabsReturned).slabs
    assert sorted(returned) == list(node.arena.sync_slabs[1:3])
    assert len(slow.read().payload) == CHUNK
    assert sync.expect(SlabsReturned).slabs == [node.arena.sync_slabs[0]]


def test_links_wait_for_slabs_in_turn_and_none_is_lost(master: Master) -> None:
    node = master(slabs=(2, 1))
    clients = [node.join(f"w{number}") for number in range(4)]
    sync = node.sync
    assert sync is not None
    payload = bytes(400_000)
    senders = [
        threading.Thread(target=lambda client=client: [client.tell("file_upd", payload) for _ in range(5)])
        for client in clients
    ]
    for sender in senders:
        sender.start()
    held = []
    seen: dict[int, int] = {}
    for _ in range(20):
        request = sync.expect(PeerRequest)
        assert request.body is not None
        seen[request.link] = seen.get(request.link, 0) + 1
        held.append(request)
        assert len(held) <= 2
        # When only the link of the body that we hold has more to send, it waits for that body.
        is_last = sum(seen.values()) - seen[request.link] == 15
        while len(held) == 2 or (held and is_last):
            first = held.pop(0)
            assert first.body is not None
            sync.send(Release([part.slab for part in first.body]))
            sync.send(Reply(first.link, first.serial, "ok", b"File updated"))
    assert list(seen.values()) == [5] * 4
    for sender in senders:
        sender.join()


def test_one_node_cannot_take_all_slabs(master: Master) -> None:
    node = master(slabs=(4, 1))
    greedy, other = node.join("greedy"), node.join("other")
    sync = node.sync
    assert sync is not None
    greedy_link = sync.link("greedy").link
    sender = threading.Thread(target=lambda: [greedy.tell("file_upd", bytes(200_000)) for _ in range(4)])
    sender.start()
    held = [sync.expect(PeerRequest) for _ in range(2)]
    assert sync.quiet(PeerRequest)
    other.tell("file_upd", bytes(200_000))
    assert sync.expect(PeerRequest).link != greedy_link
    for request in held:
        assert request.body
        sync.send(Release([part.slab for part in request.body]))
    assert [sync.expect(PeerRequest).link for _ in range(2)] == [greedy_link] * 2
    sender.join()


def hog(client: Talker, messages: int) -> None:
    """Begins that many divided messages and one frame, each of which takes a slab, and continues none."""
    for counter in range(1, messages + 1):
        client.send(HEADER.pack(counter, 80_000, command_field("echo", b"d")) + bytes(80_000))
    client.send(HEADER.pack(messages + 1, 400_000, command_field("echo")) + bytes(1000))


def test_two_nodes_that_keep_their_room_do_not_keep_it_from_others(master: Master) -> None:
    node = master(slabs=(8, 1))
    for name in ("hog1", "hog2", "hog3"):
        hog(node.join(name), 3)
    sync = node.sync
    assert sync is not None
    other = node.join("other")
    other_link = sync.link("other").link
    for _ in range(3):
        other.tell("file_upd", bytes(200_000))
        request = sync.expect(PeerRequest)
        assert request.link == other_link
        assert request.body
        sync.send(Release([part.slab for part in request.body]))


def test_node_that_keeps_more_than_its_room_is_closed(master: Master) -> None:
    node = master(slabs=(4, 1))
    client = node.join("hog")
    with contextlib.suppress(ConnectionError):  # it may be closed before it has sent the last one
        hog(client, 3)
    assert client.is_closed()


@pytest.mark.slow
def test_node_that_keeps_room_and_waits_for_more_does_not_wait_long(
    master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of them could wait for each other."""
    monkeypatch.setattr(slabs, "HEAP_BYTES", 0)
    node = master(slabs=(4, 1), divided_timeout_s=60.0)
    one, two = node.join("one"), node.join("two")
    hog(one, 1)
    hog(two, 1)
    node.logged("there was no room for a large message for 10 seconds", timeout_s=20)
    wait_until(lambda: one.is_closed(0.05) or two.is_closed(0.05), "one of them is closed")
    assert [one.is_closed(0.5), two.is_closed(0.5)].count(True) == 1


def test_room_that_others_wait_for_must_be_used(master: Master) -> None:
    node = master(slabs=(1, 1), divided_timeout_s=60.0)
    hog(node.join("hog"), 0)
    sync = node.sync
    assert sync is not None
    other = node.join("other")
    other.tell("file_upd", bytes(200_000))
    assert sync.expect(PeerRequest, timeout_s=20).link == sync.link("other").link


def test_a_link_that_ends_in_the_middle_of_a_body_frees_its_slab(master: Master) -> None:
    node = master(slabs=(2, 1))
    sync = node.sync
    assert sync is not None
    for number in range(6):
        client = node.join(f"w{number}")
        frame = SEALER.seal(bytes(3_000_000))
        client.send(len(frame).to_bytes(4).rjust(8, b"\0") + b"file_upd ---" + frame[:1_000_000])
        client.reset()
    client = node.join("last")
    client.tell("file_upd", bytes(300_000))
    assert sync.expect(PeerRequest).body


@pytest.mark.slow
def test_memory_of_slabs_goes_back_when_they_are_idle(master: Master) -> None:
    node = master()
    client = node.join("w1")
    sync = node.sync
    assert sync is not None
    process = psutil.Process(node.pid)
    for _ in range(4):
        client.tell("file_upd", bytes(5_000_000))
    bodies = [sync.expect(PeerRequest).body for _ in range(4)]
    full = process.memory_info().shared
    for body in bodies:
        assert body
        sync.send(Release([part.slab for part in body]))
    wait_until(lambda: full - process.memory_info().shared > 15 << 20, "the pages are given back", 60)


@pytest.mark.slow
def test_while_bytes_pass_the_loop_stays_free(master: Master) -> None:
    """An echo does not wait until large bodies are written: judged by what comes back of them meanwhile."""
    node = master()
    client, other = node.join("w1"), node.join("w2")
    sync = node.sync
    assert sync is not None
    sync.answer_with(lambda request: Reply(request.link, request.serial, "ok", body=request.body))
    frame = _frame(CHUNK)
    came: list[int] = []
    receiver = threading.Thread(target=_drain, args=(client, 20 * len(frame), came))
    receiver.start()
    sender = threading.Thread(target=lambda: [client.send(frame) for _ in range(20)])
    sender.start()
    waits = []
    while sender.is_alive() or receiver.is_alive():
        before = sum(came)
        other.ask("echo", "x")
        waits.append(sum(came) - before)
    sender.join()
    receiver.join()
    assert len(waits) > 5
    assert sorted(waits)[len(waits) // 2] < 2 * len(frame)


def _frame(size: int) -> bytes:
    body = SEALER.seal(bytes(size))
    return (7).to_bytes(4) + len(body).to_bytes(4) + b"echo -------" + body


def _drain(client: object, count: int, came: list[int]) -> None:
    sock = client.sock  # type: ignore[attr-defined]
    while sum(came) < count:
        came.append(len(sock.recv(1 << 20)))
