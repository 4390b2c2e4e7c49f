"""Sync dies and comes back: links stay, every peer gets an answer, every slab its owner."""

import contextlib
import json
import signal
import threading
from collections.abc import Callable

import pytest

from clusterd.messages.links import (
    Answered,
    CloseLink,
    HelloRefused,
    KeepaliveSeen,
    LinkDown,
    LinkUp,
    NetHello,
    OpenTask,
    PeerRequest,
    Release,
    Reply,
    Request,
    SlabsReturned,
    SyncHello,
    TaskNote,
    Unanswered,
    WriteLog,
)
from tests.fakes.sync import FakeSync
from tests.net.harness import KEY, PATIENCE_S, NetNode, wait_until
from tests.net.test_bodies import CHUNK, put
from tools.rig.peer import build_frames

Master = Callable[..., NetNode]


def refusal_of(payload: bytes) -> tuple[int, str]:
    fields = json.loads(payload)["__wazuh_exception__"]["__object__"]
    return fields["code"], fields["extra_message"]


RESTARTED = (1000, "sync process was restarted")


def test_requests_that_a_dead_sync_had_are_refused_and_links_stay(master: Master) -> None:
    node = master()
    client = node.join("w1")
    assert node.sync is not None
    counters = [client.tell("syn_i_w_m_p"), client.tell("new_str", "5"), client.tell("file_upd", bytes(300_000))]
    for _ in counters:
        node.sync.expect(PeerRequest)
    node.kill_sync()
    for counter in counters:
        answer = client.answer_to(counter)
        assert (answer.command, refusal_of(answer.payload)) == (b"err", RESTARTED)
    assert client.ask("echo", "x").payload == b"x"
    assert node.lines("[Net] The sync process is gone; 3 requests")


def test_while_there_is_no_sync_every_request_is_refused_at_once(master: Master) -> None:
    node = master()
    client = node.join("w1")
    node.kill_sync()
    node.logged("The sync process is gone")
    for command, payload in (("syn_i_w_m_p", b""), ("file_upd", bytes(300_000))):
        answer = client.ask(command, payload)
        assert (answer.command, refusal_of(answer.payload)) == (b"err", RESTARTED)
    # There are more large ones than slabs, and none is lost.
    for _ in range(10):
        assert client.ask("file_upd", bytes(300_000)).command == b"err"


def test_a_new_sync_learns_of_every_link_and_serves_them(master: Master) -> None:
    node = master()
    first = node.join("w1")
    node.kill_sync()
    node.logged("The sync process is gone")
    second, local = node.join("w2"), node.local()
    assert local.ask("echo", "x").payload == b"x"
    sync = node.start_sync()
    hello = sync.hello()
    assert [(info.kind, info.name) for info in hello.links[:2]] == [("worker", "w1"), ("worker", "w2")]
    assert hello.links[2].kind == "local"
    assert hello.serving.endswith(f":{node.settings.cluster.port}")
    assert hello.incarnation == node.row().incarnation
    assert sync.quiet(LinkUp)
    for client in (first, second):
        counter = client.tell("syn_i_w_m_p")
        request = sync.expect(PeerRequest)
        sync.send(Reply(request.link, request.serial, "ok", b"True"))
        assert client.answer_to(counter).payload == b"True"


def test_a_sync_that_comes_back_before_anyone_noticed_finds_the_old_requests_refused(master: Master) -> None:
    node = master()
    client = node.join("w1")
    assert node.sync is not None
    counter = client.tell("syn_i_w_m_p")
    old = node.sync.expect(PeerRequest)
    sync = node.start_sync()
    sync.hello()
    assert refusal_of(client.answer_to(counter).payload) == RESTARTED
    # An answer to a request of an earlier sync is not believed.
    sync.send(Reply(old.link, old.serial, "ok", b"True"))
    assert client.ask("echo", "x").payload == b"x"


@pytest.mark.slow
def test_a_new_sync_hears_which_of_its_slabs_are_still_being_sent(master: Master) -> None:
    node = master()
    slow = node.join("slow")
    assert node.sync is not None
    link = node.sync.link("slow").link
    for place in range(2):
        node.sync.send(Request(link, place, "file_upd", body=[put(node, bytes(CHUNK), place)]))
    wait_until(lambda: node.counter("bytes_out") > 262_144, "the first body is on its way")
    sync = node.start_sync()
    hello = sync.hello()
    assert hello.sending_slabs == [node.arena.sync_slabs[0]]
    assert len(slow.read().payload) == CHUNK
    assert sync.expect(SlabsReturned).slabs == hello.sending_slabs
    assert slow.ask("echo", "x").payload == b"x"


@pytest.mark.slow
def test_slab_that_goes_to_two_links_is_named_and_comes_back_once_for_each(master: Master) -> None:
    node = master()
    slow = [node.join("slow"), node.join("slower")]
    assert node.sync is not None
    links = [node.sync.link(name).link for name in ("slow", "slower")]
    body = put(node, bytes(CHUNK), 0)
    node.sync.send(Request(99, 7, "file_upd", body=[body]))  # a link that is gone was never counted
    assert node.sync.expect(SlabsReturned).slabs == [body.slab]
    for number, link in enumerate(links):
        node.sync.send(Request(link, number, "file_upd", body=[body]))
    wait_until(lambda: node.counter("bytes_out") > 524_288, "both are on their way")
    sync = node.start_sync()
    assert sync.hello().sending_slabs == [body.slab, body.slab]
    for client in slow:
        assert len(client.read().payload) == CHUNK
        assert sync.expect(SlabsReturned).slabs == [body.slab]
    assert node.start_sync().hello().sending_slabs == []


def test_a_new_sync_gets_the_tasks_that_the_old_one_was_sending(master: Master) -> None:
    node = master()
    client = node.join("w1")
    assert node.sync is not None
    link = node.sync.link("w1").link
    node.sync.send(TaskNote(link, "syn_m_c", "task-1", True))
    node.sync.send(TaskNote(link, "syn_m_c", "task-2", True))
    node.sync.send(TaskNote(link, "syn_m_c", "task-2", False))
    node.sync.send(TaskNote(link + 99, "syn_m_c", "task-3", True))
    node.sync.send(Request(link, 1, "syn_m_c"))
    client.read()
    sync = node.start_sync()
    assert sync.hello().open_tasks == [OpenTask(link, "syn_m_c", "task-1")]
    client.close()
    sync.expect(LinkDown)
    assert node.start_sync().hello().open_tasks == []


def test_slabs_that_a_dead_sync_held_are_used_again(master: Master) -> None:
    node = master(slabs=(2, 1))
    client = node.join("w1")
    for _ in range(3):
        assert node.sync is not None
        client.tell("file_upd", bytes(300_000))
        node.sync.expect(PeerRequest)
        node.start_sync().hello()


def test_answers_to_requests_of_a_dead_sync_are_dropped(master: Master) -> None:
    node = master()
    client = node.join("w1")
    assert node.sync is not None
    link = node.sync.link("w1").link
    node.sync.send(Request(link, 7, "syn_m_c"))
    request = client.read()
    sync = node.start_sync()
    sync.hello()
    client.respond(request, "ok", bytes(300_000))
    assert client.ask("echo", "x").payload == b"x"
    assert sync.quiet(Answered)


def test_a_hello_sent_twice_is_answered_twice(master: Master) -> None:
    node = master()
    node.join("w1")
    assert node.sync is not None
    node.sync.link("w1")  # no hello is on its way any more that does not know of it
    first = node.sync.hello()
    assert ([info.name for info in first.links], first.sync) == (["w1"], node.sync.incarnation)
    assert isinstance(node.sync.hello(), NetHello)


def test_hello_says_whether_messages_were_dropped_since_the_one_before(master: Master) -> None:
    """If not, sync keeps its requests: these links wait for its answers."""

    def goes_on(sync: FakeSync) -> bool:
        sync.send(SyncHello(sync.incarnation))
        return sync.expect(NetHello, lambda hello: hello.sync == sync.incarnation).goes_on

    node = master()
    client = node.join("w1")
    assert node.sync is not None
    counter = client.tell("syn_i_w_m_p")
    request = node.sync.expect(PeerRequest)
    assert goes_on(node.sync)
    node.sync.send(Reply(request.link, request.serial, "ok", b"True"))
    assert client.answer_to(counter).payload == b"True"
    sync = node.start_sync()  # nobody has noticed the death of the one before
    assert [goes_on(sync) for _ in range(2)] == [False, True]
    node.kill_sync()
    node.logged("The sync process is gone")
    assert not goes_on(node.start_sync())


def test_slabs_returned_twice_are_reported_and_harm_nothing(master: Master) -> None:
    node = master()
    client = node.join("w1")
    assert node.sync is not None
    client.tell("file_upd", bytes(300_000))
    request = node.sync.expect(PeerRequest)
    assert request.body
    slab = request.body[0].slab
    node.sync.send(Release([slab]))
    node.sync.send(Release([slab]))
    node.logged(f"[Net] Slabs [{slab}] were given back twice.")
    node.sync.send(Reply(request.link, request.serial, "ok", body=request.body))
    assert client.read().command == b"err"


def test_what_a_dead_sync_has_left_to_be_read_is_not_sent(master: Master) -> None:
    """Its successor numbers its requests from 1 on, too, and would be given the responses."""
    node = master()
    client = node.join("w1")
    assert node.sync is not None
    link = node.sync.link("w1").link
    node.board.row("sync").set_down()
    node.logged("The sync process is gone")
    node.sync.send(Request(link, 1, "syn_m_c", b"of the dead one"))
    assert client.ask("echo", "x").payload == b"x"
    sync = node.start_sync()
    sync.hello()
    sync.send(Request(link, 1, "syn_m_c", b"of its successor"))
    request = client.read()
    assert request.payload == b"of its successor"
    client.respond(request, "ok", b"task")
    assert sync.expect(Answered).payload == b"task"


def test_what_sync_says_to_the_net_process_before_reaches_no_peer_of_the_next_one(master: Master) -> None:
    """Answers to requests of a net process that has died come late: links, requests and slabs of its successor must not
    have their numbers."""
    node = master()
    counters, requests = [], []
    for life in range(2):
        if life:
            node.stop(signal.SIGKILL)
            node.spawn()
            wait_until(lambda: node.row().state == "ready", "the next net is ready")
        client = node.join(f"w{life}")
        assert node.sync is not None
        counters.append(client.tell("file_upd", bytes(300_000)))
        requests.append(node.sync.expect(PeerRequest))
    old, new = requests
    assert old.body
    assert new.body
    assert old.body[0].slab == new.body[0].slab
    for is_greeted in (False, True):
        if is_greeted:
            node.sync.hello()
        else:
            node.sync.send(Release([old.body[0].slab]))
        node.sync.send(Reply(old.link, old.serial, "ok", b"that of another"))
        node.sync.send(CloseLink(old.link, "another"))
        node.sync.send(Request(old.link, 1, "syn_m_c_ok"))
    assert node.sync.expect(Unanswered).why == "closed"
    node.sync.send(Reply(new.link, new.serial, "ok", b"its own"))
    node.sync.send(Release([new.body[0].slab]))
    assert client.answer_to(counters[1]).payload == b"its own"
    assert not node.lines("given back twice")


def test_sync_closes_a_link_with_its_reason_in_the_log(master: Master) -> None:
    node = master()
    client = node.join("w1")
    assert node.sync is not None
    link = node.sync.link("w1").link
    node.sync.send(CloseLink(link, "Error 3025 - Could not decrypt message"))
    assert client.is_closed()
    assert node.sync.expect(LinkDown) == LinkDown(link, "Error 3025 - Could not decrypt message")
    node.logged("Error during connection with 'w1': Error 3025 - Could not decrypt message.")


def test_lines_for_main_are_written_by_net(master: Master) -> None:
    node = master()
    assert node.sync is not None
    node.sync.send(WriteLog("ERROR", "Worker w1", "The task was canceled due to something"))
    assert node.logged("The task was canceled") == "ERROR: [Worker w1] [Main] The task was canceled due to something"


def test_net_starts_before_sync_and_serves_once_it_is_there(master: Master) -> None:
    node = master(with_sync=False)
    client = node.join("w1")
    counter = client.tell("syn_i_w_m_p")
    sync = node.start_sync()
    assert [info.name for info in sync.hello().links] == ["w1"]
    # A request before there was any sync is answered by the first one, or refused, but never ignored.
    sync.answer_with(lambda request: Reply(request.link, request.serial, "ok", b"True"))
    assert client.answer_to(counter).payload
    assert client.ask("syn_i_w_m_p").payload == b"True"


def test_a_client_that_was_told_to_wait_hears_of_a_dead_sync_by_a_request(master: Master) -> None:
    node = master()
    client = node.local()
    assert node.sync is not None
    counters = [client.tell("get_nodes") for _ in range(2)]
    requests = [node.sync.expect(PeerRequest) for _ in counters]
    node.sync.send(Reply(requests[0].link, requests[0].serial, "ok", b"queued", more=True))
    assert client.answer_to(counters[0]).payload == b"queued"
    node.kill_sync()
    messages = [client.read(), client.read()]
    told = next(message for message in messages if message.counter != counters[1])
    refused = next(message for message in messages if message.counter == counters[1])
    for message in (told, refused):
        assert (message.command, refusal_of(message.payload)) == (b"err", RESTARTED)
    assert told.counter not in counters
    client.respond(told, "ok", bytes(300_000))
    assert client.ask("echo", "x").payload == b"x"
    wait_until(lambda: node.counter("slabs_free") == node.counter("slabs"), "the answer that nobody wanted is dropped")


@pytest.mark.slow
def test_keepalives_are_not_read_faster_than_sync_hears_of_them(master: Master) -> None:
    """Whoever has the key may send thousands in a second, and sync may be away for a minute."""
    node = master(with_sync=False)
    client, most = node.join("w1"), 6000
    flood = b"".join(b"".join(build_frames(b"echo-c", number, b"x", KEY)) for number in range(most))
    with client.sock.dup() as feeding:  # with a time-out of its own
        feeding.settimeout(PATIENCE_S)
        sender = threading.Thread(target=feeding.sendall, args=(flood,))
        sender.start()
        answered = 0
        with contextlib.suppress(TimeoutError):
            while answered < most:
                client.read(1.0)
                answered += 1
        assert answered < 4000
        node.start_sync().answer_with(lambda request: None)
        for _ in range(most - answered):
            assert client.read().command == b"ok-m"
        sender.join()


def test_refusals_do_not_wait_for_a_sync_that_takes_none(master: Master) -> None:
    node = master(with_sync=False, log_lines=5)
    client = node.join("w1")
    for _ in range(3000):
        client.tell("hello", "w1 wazuh worker 4.14.1")
    for _ in range(3000):
        assert client.read().command == b"err"
    assert client.ask("echo-c", "x").payload == b"x"
    sync = node.start_sync()
    sync.expect(KeepaliveSeen)
    assert sum(isinstance(message, HelloRefused) for message in sync.received) <= 2000
