"""Sendsync through whole clusters: from a worker's local socket to a daemon of the master, and back to the same
client."""

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import KEY, MakeRig, rigs
from tests.fakes.daemon import NEVER, FakeDaemon
from tests.system.new_lines import NewLines
from tools.rig import faults
from tools.rig.nodes import Rig, RigNode
from tools.rig.peer import (
    LocalClient,
    PeerError,
    PeerMessage,
    ScriptedLink,
    StockMaster,
    StockWorker,
    dial,
    error_of,
    wait_until,
)
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow

AUTH = "queue/sockets/auth"
NO_STORE = {"clusterd": {"store": "off"}}
Answer = Callable[[bytes], bytes | None]


def echo(request: bytes) -> bytes:
    return request


def never(request: bytes) -> None:
    return NEVER


def request_of(message: object, daemon: str = "authd") -> str:
    return json.dumps({"daemon_name": daemon, "message": message})


@contextlib.contextmanager
def client_of(node: RigNode) -> Iterator[LocalClient]:
    with LocalClient(node.root / "queue/cluster/c-internal.sock") as client:
        yield client


def outcome(client: LocalClient, timeout_s: float = 60.0) -> tuple[str, bytes]:
    """Returns command and payload of what follows a `sendsync`: a request of the daemon's, or a response."""
    seen = client.link.wait_for(lambda one: not one.sent and one.command in ("ok", "err"), timeout_s)
    return seen.command, seen.payload


def ask(node: RigNode, payload: bytes | str, timeout_s: float = 60.0) -> tuple[str, bytes]:
    """Returns what a daemon of this node gets for its request, over a connection of its own."""
    with client_of(node) as client:
        client.link.tell("sendsync", payload)
        return outcome(client, timeout_s)


def code_of(payload: bytes) -> int:
    code: int = json.loads(payload)["__wazuh_exception__"]["__object__"]["code"]
    return code


def is_joined(rig: Rig) -> bool:
    return all(facts.get("peers") for facts in rig.status(*(node.name for node in rig.workers)).values())


@contextlib.contextmanager
def started(workers: int, **options: Any) -> Iterator[Rig]:
    with rigs() as make:
        rig = make(workers, **options)
        rig.start()
        wait_until(lambda: is_joined(rig), 60, "all workers are connected")
        yield rig


@pytest.fixture(scope="module")
def running() -> Iterator[Rig]:
    with started(2, overrides=NO_STORE, links=True) as rig:
        yield rig


@pytest.fixture
def rig(running: Rig) -> Iterator[Rig]:
    """A master and two workers behind links, for tests that leave all connected."""
    yield running
    wait_until(lambda: is_joined(running), 60, "all workers are connected again")
    with FakeDaemon(running.master.root / AUTH, echo):
        for node in running.workers:  # Whatever was to be said of a test's requests stands in the logs then.
            wait_until(lambda node=node: ask(node, request_of("x")) == ("ok", b"x"), 60, "it is served")  # type: ignore[misc]


@pytest.fixture(scope="module")
def impatient() -> Iterator[Rig]:
    """A master and a worker that wait a short time for answers."""
    with started(1, overrides=NO_STORE | {"intervals": {"communication": {"timeout_dapi_request": 6}}}) as rig:
        yield rig


def killed(rig: Rig, node: RigNode, process: str) -> None:
    pid = rig.processes(node.name)[process]
    assert pid is not None
    psutil.Process(pid).kill()


def test_an_answer_reaches_the_client_that_asked_among_fifty(rig: Rig) -> None:
    logs = [NewLines(node) for node in rig.nodes]

    def in_any_order(request: bytes) -> bytes:
        time.sleep(random.Random(request).random() / 5)
        return b"answer to " + request

    def one(number: int) -> None:
        node = rig.workers[number % 2]
        message = {"function": "add", "arguments": {"name": f"web-{number}", "ip": "any"}}
        for _ in range(3):
            command, payload = ask(node, request_of(message))
            assert (command, payload) == ("ok", b"answer to " + json.dumps(message).encode())

    with FakeDaemon(rig.master.root / AUTH, in_any_order) as authd, ThreadPoolExecutor(50) as threads:
        list(threads.map(one, range(50)))
        assert len(authd.requests) == 150
        assert authd.at_once > 8
    # Nobody serves the agent database of this rig, of which another round complains.
    assert not [line for line in logs[0].text.splitlines() if "ERROR" in line and "agent-groups]" not in line]
    assert "web-1" not in "".join(log.text for log in logs)


def test_requests_of_the_documented_forms(rig: Rig) -> None:
    node = rig.workers[0]
    with FakeDaemon(rig.master.root / AUTH, echo), client_of(node) as client:
        # `sendsync` gets no response; its answer has a fresh counter (wdb.md 9.2).
        counter = client.link.tell("sendsync", request_of("as it is"))
        seen = client.link.wait_for(lambda one: not one.sent)
        assert (seen.is_request, seen.command, seen.payload) == (True, "ok", b"as it is")
        assert seen.counter != counter
        # `sendasync`: the first answer comes at once, the daemon's answer is the second.
        with client_of(node) as other:
            first = other.ask("sendasync", request_of({"a": [1, "\u00e4"]}))
            assert (first.command, first.payload) == (b"ok", b"Added request to sendsync requests queue")
            assert other.answer_of("ok") == b'{"a": [1, "\\u00e4"]}'
        # Several requests over one connection are answered in order.
        with client_of(node) as third:
            for number in range(20):
                third.link.tell("sendsync", request_of(str(number)))
            wait_until(lambda: sum(one.command == "ok" and not one.sent for one in third.link.record) == 20, 60, "all")
            answers = [one.payload for one in third.link.record if not one.sent and one.is_request]
            assert answers == [str(number).encode() for number in range(20)]
        assert ask(node, request_of("")) == ("ok", b"")
        large = "x" * 200_000
        command, payload = ask(node, request_of(large))
        assert (command, payload) == ("ok", large.encode()[:65536])
    with FakeDaemon(rig.master.root / AUTH, lambda _: b"y" * 200_000), client_of(node) as client:
        client.link.tell("sendsync", request_of("a lot, please"))
        assert client.link.wait_for(lambda one: one.command == "ok").size == 200_000


def test_requests_that_are_wrong_are_refused_and_not_passed_on(rig: Rig) -> None:
    with FakeDaemon(rig.master.root / AUTH, echo) as authd:
        for wrong in (
            b"",
            b"{",
            b"[]",
            b"\xff\xfe",
            b'{"daemon_name": "authd"}',
            b'{"message": {}}',
            b'{"daemon_name": "authd", "message": 5}',
            b'{"daemon_name": "authd", "message": {}, "secret-key": 1}',
            b"[" * 100_000,
            request_of("x" * 1_000_000).encode(),
        ):
            command, payload = ask(rig.workers[0], wrong)
            assert (command, code_of(payload)) == ("err", 1000), wrong[:40]
            assert b"secret-key" not in payload
        assert not authd.requests
        assert ask(rig.workers[0], request_of("good")) == ("ok", b"good")
    with client_of(rig.master) as client:
        for command in ("sendsync", "sendasync"):
            assert client.ask(command, request_of("x")).payload == f"unknown command 'b'{command}''".encode()


def test_each_failure_of_a_daemon_has_its_code(rig: Rig) -> None:
    node, log = rig.workers[0], NewLines(rig.master)
    assert ask(node, request_of({}, "nodaemon")) == (
        "err",
        b"Error 1014 - Error communicating with socket: 'nodaemon'",
    )
    assert ask(node, request_of({})) == ("err", b"Error 1013 - Unable to connect with socket: auth")
    daemon = FakeDaemon(rig.master.root / AUTH, echo)
    daemon.stop_listening()
    assert ask(node, request_of({})) == ("err", b"Error 1121 - Error connecting with socket: auth")
    daemon.close()
    cut = FakeDaemon(rig.master.root / "queue/tasks/task", never)
    with client_of(node) as client:
        client.link.tell("sendsync", request_of({"key": "secret"}, "task-manager"))
        wait_until(lambda: bool(cut.requests), 60, "the daemon was asked")
        cut.close()
        command, payload = outcome(client)
        assert (command, payload[:10]) == ("err", b"Error 1014")
    told = "ERROR: [Master] [SendSync] Error in SendSync (parameters {'daemon_name': 'authd'}): Error 1013"
    assert told in log.text
    assert "secret" not in log.text


def test_a_daemon_that_does_not_answer_is_given_up_and_delays_no_other_request(impatient: Rig) -> None:
    node = impatient.workers[0]
    with (
        FakeDaemon(impatient.master.root / "queue/sockets/remote", never) as remoted,
        FakeDaemon(impatient.master.root / AUTH, echo),
        contextlib.ExitStack() as stack,
    ):
        clients = [stack.enter_context(client_of(node)) for _ in range(60)]
        for client in clients:
            client.link.tell("sendsync", request_of({"command": "assigngroup"}, "remoted"))
        wait_until(lambda: len(remoted.requests) == 48, 60, "as many as one daemon gets of one worker")
        # If it had to wait for one of those it would be refused: a request waits a quarter of its time for its turn,
        # and a silent daemon is given up after half of it.
        assert ask(node, request_of("quick")) == ("ok", b"quick")
        for client in clients:
            assert outcome(client)[0] == "err"


@pytest.mark.parametrize("how", ["cut", "net", "stop"])
def test_a_link_that_ends_while_a_request_is_under_way_is_3023_at_once(rig: Rig, how: str) -> None:
    node, log = rig.workers[0], NewLines(rig.master)
    assert node.link_control is not None
    with FakeDaemon(rig.master.root / AUTH, never) as authd, client_of(node) as first, client_of(node) as second:
        first.link.tell("sendsync", request_of({}))
        assert second.ask("sendasync", request_of({})).command == b"ok"
        wait_until(lambda: len(authd.requests) == 2, 60, "the daemon has both")
        if how == "cut":
            faults.tell_link(node.link_control, "cut")
        elif how == "net":
            killed(rig, rig.master, "net")
        else:
            rig.stop("master")
        assert code_of(first.answer_of("err", 10)) == 3023
        assert code_of(second.answer_of("err", 10)) == 3023
    if how == "cut":
        lost = "ERROR: [Master] [SendSync] Error in Sendsync. The destination node is not connected or does not exist"
        wait_until(lambda: lost in log.text, 60, "the master says so")
        assert log.text.count(lost) == 1
        faults.tell_link(node.link_control, "mend")
    elif how == "stop":
        rig.start("master")


@pytest.mark.parametrize("side", ["rig_manager_1", "rig_manager_2"])
def test_a_sync_process_that_dies_with_a_request_leaves_no_client_in_silence(rig: Rig, side: str) -> None:
    node = rig.workers[0]
    with FakeDaemon(rig.master.root / AUTH, never) as authd, client_of(node) as first, client_of(node) as second:
        first.link.tell("sendsync", request_of({}))
        assert second.ask("sendasync", request_of({})).command == b"ok"
        wait_until(lambda: len(authd.requests) == 2, 60, "the daemon has both")
        killed(rig, rig.node(side), "sync")
        assert outcome(first, 15)[0] == "err"
        assert second.answer_of("err", 15)
    with FakeDaemon(rig.master.root / AUTH, echo):
        wait_until(lambda: ask(node, request_of("again")) == ("ok", b"again"), 60, "it works again")


def test_an_answer_for_a_client_that_hung_up_is_dropped(rig: Rig) -> None:
    node, logs = rig.workers[0], [NewLines(node) for node in rig.nodes]
    go_on = threading.Event()

    def when_told(request: bytes) -> bytes:
        assert go_on.wait(120)
        return b"late"

    with FakeDaemon(rig.master.root / AUTH, when_told) as authd:
        with client_of(node) as client:
            client.link.tell("sendsync", request_of("first"))
            wait_until(lambda: len(authd.requests) == 1, 60, "the daemon was asked")
        with client_of(node) as client:
            client.link.tell("sendsync", request_of("second"))
            wait_until(lambda: len(authd.requests) == 2, 60, "the daemon was asked again")
            go_on.set()
            assert outcome(client) == ("ok", b"late")
    lines = "".join(log.text for log in logs).splitlines()
    assert not [line for line in lines if "ERROR" in line and "sendsync" in line.lower()]


def test_a_stock_worker_is_served_by_our_master(rig: Rig, tmp_path: Path) -> None:
    with (
        FakeDaemon(rig.master.root / AUTH, lambda request: b"got " + request),
        StockWorker((HOST, rig.master.port), KEY, "stock", tmp_path, cluster="rig") as worker,
    ):
        worker.join()
        answer = worker.ask("sendsync", "799856 " + request_of({"function": "add"}))
        assert (answer.command, answer.payload) == (b"ok", b"Added request to SendSync requests queue")
        wait_until(lambda: bool(worker.forwarded), 60, "the answer is forwarded")
        number, string_id = worker.forwarded[0].split(" ")
        assert (number, worker.connection.take_string(string_id)) == ("799856", b'got {"function": "add"}')
        worker.ask("sendsync", "816670 " + request_of({}, "nodaemon"))
        told = worker.connection.link.wait_for(lambda one: one.command == "sendsyn_err")
        assert told.payload == b"816670 Error 1014 - Error communicating with socket: 'nodaemon'"
        worker.ask("sendsync", '1 {"daemon_name": "authd"}')
        told = worker.connection.link.wait_for(
            lambda one: one.command == "sendsyn_err" and one.payload.startswith(b"1 ")
        )
        assert b"Error 1014" in told.payload


def test_our_worker_is_served_by_a_stock_master(make_rig: MakeRig) -> None:
    rig = make_rig(1, overrides=NO_STORE)
    asked: list[tuple[str, Any]] = []

    def daemon(name: str, message: Any) -> str:
        asked.append((name, message))
        if name != "authd":
            raise PeerError(f"Error 1014 - Error communicating with socket: '{name}'")
        return json.dumps({"error": 0, "data": message})

    with StockMaster(
        rig.master.root, KEY, name="rig_manager_1", cluster="rig", port=rig.master.port, daemon=daemon
    ) as master:
        rig.start("rig_manager_2")
        session = master.session("rig_manager_2")
        wait_until(lambda: is_joined(rig), 60, "the worker knows it")
        node = rig.workers[0]
        assert ask(node, request_of({"name": "a"})) == ("ok", b'{"error": 0, "data": {"name": "a"}}')
        assert ask(node, request_of({}, "nodaemon")) == (
            "err",
            b"Error 1014 - Error communicating with socket: 'nodaemon'",
        )
        with client_of(node) as client:
            assert client.ask("sendasync", request_of({"name": "b"})).command == b"ok"
            assert json.loads(client.answer_of("ok"))["data"] == {"name": "b"}
        # Answers for which no client waits any more.
        string_id = session.send_string(b"nobody's")
        answer = session.link.ask("sendsyn_res", f"99 {string_id}")
        assert (answer.command, answer.payload) == (b"ok", b"Response forwarded to worker")
        assert error_of(session.link.ask("sendsyn_err", "99 text")) == "1000: '99'"
    assert [name for name, _ in asked] == ["authd", "nodaemon", "authd"]


@contextlib.contextmanager
def evil_node(rig: Rig, answer: Callable[[PeerMessage], tuple[bytes, bytes] | None]) -> Iterator[ScriptedLink]:
    link = ScriptedLink(dial((HOST, rig.master.port)), KEY, answer, "evil")
    link.start()
    try:
        assert link.ask("hello", "evil rig worker 4.14.1").command == b"ok"
        yield link
    finally:
        link.close()


def refused_of(link: ScriptedLink) -> int:
    seen = link.record.copy()
    return sum(not one.sent and one.command in ("err", "sendsyn_err") for one in seen)


def test_a_hostile_worker_is_refused_and_bounded(impatient: Rig) -> None:
    rig, log = impatient, NewLines(impatient.master)
    with (
        FakeDaemon(rig.master.root / AUTH, lambda request: NEVER if request == b"evil" else request) as authd,
        evil_node(rig, lambda message: None) as link,
    ):
        good = request_of("x").encode()
        for refused in (b"nospace", b"\xff\xfe " + good, b"a" * 300 + b" " + good, b"new\nline " + good, b" " + good):
            assert link.ask("sendsync", refused).command == b"err"
        for malformed in (b"1 \xff", b"1 {", b"1 " + b"[" * 200_000, b'1 {"daemon_name": "\\n", "message": ""}'):
            assert link.ask("sendsync", malformed).payload == b"Added request to SendSync requests queue"
        for number in range(1200):
            link.tell("sendsync", f"c{number} {request_of('evil')}")
        wait_until(lambda: len(authd.requests) == 48, 60, "as many as one worker gets of one daemon")
        assert ask(rig.workers[0], request_of("good")) == ("ok", b"good")
        assert authd.at_once <= 49
        wait_until(lambda: refused_of(link) >= 1200 - 1064, 60, "the rest is refused")
        assert link.ask("echo-c", b"x").payload == b"x"
    assert "Traceback" not in log.text
    assert all(len(line) < 1000 for line in log.text.splitlines())
    with FakeDaemon(rig.master.root / AUTH, echo):
        assert ask(rig.workers[0], request_of("after")) == ("ok", b"after")
