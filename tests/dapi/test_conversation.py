"""A program's side of the local socket, with a node that is honest, slow, broken or hostile (dapi.md 1.11, 1.12)."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd.dapi.protocol.request import ApiRequest
from clusterd.errors import ClusterError
from clusterd.rundir import local_socket
from clusterd.status import control
from clusterd.status.control import NotAnswering, NotRunning, ask, ask_json, call
from clusterd.wire.connection import Connection
from clusterd.wire.events import RequestReceived, ResponseReceived
from clusterd.wire.results import WireCallable, WireResult, dump_json, encode_exception

Script = Callable[["Side", RequestReceived], None]
RESULT = WireResult("WazuhResult", {"str_priority": None, "result": {"n": 1}})
FUNCTION = ApiRequest(f=WireCallable("f", "wazuh.x", "f"))


class Side:
    """The node's end of one connection. `say` sends a request of the node's own and returns the response."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.connection = Connection("local-server", None, counter_start=7)
        self.commands: list[str] = []

    def reply(self, request: RequestReceived, payload: bytes, command: str = "ok") -> None:
        for frame in self.connection.respond(request.counter, command, payload):
            self.sock.sendall(frame)

    def say(self, command: str, payload: bytes) -> ResponseReceived:
        _, frames = self.connection.request(command, payload, 0.0, 1e9)
        for frame in frames:
            self.sock.sendall(frame)
        while True:
            event = self.next()
            if isinstance(event, ResponseReceived):
                return event
            assert isinstance(event, RequestReceived)
            self.reply(event, event.payload, "ok-m")

    def string(self, text: bytes) -> bytes:
        name = self.say("new_str", str(len(text)).encode()).payload
        for start in range(0, len(text), 1000):
            assert self.say("str_upd", name + b" " + text[start : start + 1000]).payload == b"String updated"
        return name

    def next(self) -> object:
        while True:
            data = self.sock.recv(65536)
            if not data:
                raise ConnectionError
            for event in self.connection.receive(data):
                if isinstance(event, RequestReceived):
                    self.commands.append(event.command)
                return event


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Callable[[Script], str]]:
    """Serves one connection with a script. Returns the root for the client."""
    path = Path(local_socket(str(tmp_path)))
    path.parent.mkdir(parents=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    threads: list[threading.Thread] = []
    problems: list[BaseException] = []

    def serve(script: Script) -> str:
        def one() -> None:
            sock, _ = listening.accept()
            with sock:
                sock.settimeout(60)
                side = Side(sock)
                try:
                    event = side.next()
                    assert isinstance(event, RequestReceived)
                    script(side, event)
                except OSError:
                    return  # the client has hung up, as some tests want
                except BaseException as problem:
                    problems.append(problem)

        threads.append(threading.Thread(target=one))
        threads[-1].start()
        return str(tmp_path)

    yield serve
    for thread in threads:
        thread.join(60)
    listening.close()
    assert not problems


def test_reply_is_the_answer(node: Callable[[Script], str]) -> None:
    root = node(lambda side, asked: side.reply(asked, b'{"a": 1}'))
    assert ask_json(root, "get_health", b"null", timeout_s=60) == {"a": 1}


def test_long_reply_comes_in_pieces(node: Callable[[Script], str]) -> None:
    text = bytes(range(256)) * 49152  # 12 MiB, more than two frames

    def script(side: Side, asked: RequestReceived) -> None:
        assert side.say("echo-m", b"between") is not None
        side.reply(asked, text)

    assert ask(node(script), "get_health", b"null", timeout_s=60) == text


def test_forwarded_question_has_a_second_message(node: Callable[[Script], str]) -> None:
    def script(side: Side, asked: RequestReceived) -> None:
        side.reply(asked, b"Sent request to master node")
        assert side.say("control_res", b'{"items": []}').payload == b"Response received"

    assert ask_json(node(script), "get_nodes", b"{}", timeout_s=60) == {"items": []}


def test_error_of_the_master_is_raised(node: Callable[[Script], str]) -> None:
    def script(side: Side, asked: RequestReceived) -> None:
        side.reply(asked, b"Sent request to master node")
        side.say("control_res", encode_exception(1730))

    with pytest.raises(ClusterError, match="1730"):
        ask_json(node(script), "get_nodes", b"{}", timeout_s=60)


def test_answer_of_a_function_comes_as_a_long_string(node: Callable[[Script], str]) -> None:
    def script(side: Side, asked: RequestReceived) -> None:
        side.reply(asked, b"Added request to API requests queue")
        name = side.string(dump_json(RESULT) + b" " * 5000)
        assert side.say("dapi_res", name).payload == b"Distributed api response received"

    assert call(node(script), FUNCTION, timeout_s=60) == RESULT


@pytest.mark.parametrize(
    ("command", "payload", "code"),
    [
        ("dapi_err", encode_exception(3021), 3021),
        ("dapi_err", b"No module named 'x'", 3000),
        ("err", encode_exception(1000), 1000),
        ("dapi_res", b"Error 1000 - no string", 3000),
    ],
)
def test_failure_before_a_result_is_raised(
    node: Callable[[Script], str], command: str, payload: bytes, code: int
) -> None:
    def script(side: Side, asked: RequestReceived) -> None:
        side.reply(asked, b"Added request to API requests queue")
        side.say(command, payload)

    with pytest.raises(ClusterError) as found:
        call(node(script), FUNCTION, timeout_s=60)
    assert found.value.code == code


def test_exception_as_the_answer_is_raised(node: Callable[[Script], str]) -> None:
    def script(side: Side, asked: RequestReceived) -> None:
        side.reply(asked, b"Added request to API requests queue")
        side.say("dapi_res", side.string(encode_exception(1730)))

    with pytest.raises(ClusterError, match="1730"):
        call(node(script), FUNCTION, timeout_s=60)


def test_refusal_is_raised_at_once(node: Callable[[Script], str]) -> None:
    with pytest.raises(ClusterError) as found:
        call(node(lambda side, asked: side.reply(asked, encode_exception(3023), "err")), FUNCTION, timeout_s=60)
    assert found.value.code == 3023


def test_strings_that_are_unknown_or_too_large_are_refused_and_waiting_goes_on(node: Callable[[Script], str]) -> None:
    def script(side: Side, asked: RequestReceived) -> None:
        side.reply(asked, b"Added request to API requests queue")
        assert side.say("new_str", b"99999999999").command == "err"
        assert side.say("new_str", b"-1").command == "err"
        assert side.say("str_upd", b"77 data").command == "err"
        assert side.say("dapi_res", b"77").command == "err"
        assert side.say("nonsense", b"").payload == b"unknown command 'b'nonsense''"
        side.say("dapi_res", side.string(dump_json(RESULT)))

    assert call(node(script), FUNCTION, timeout_s=60) == RESULT


def test_closed_connection_ends_the_wait(node: Callable[[Script], str]) -> None:
    def script(side: Side, asked: RequestReceived) -> None:
        side.reply(asked, b"Added request to API requests queue")

    with pytest.raises(NotAnswering, match="closed the connection"):
        call(node(script), FUNCTION, timeout_s=60)


def test_garbage_is_no_protocol(node: Callable[[Script], str]) -> None:
    with pytest.raises(NotAnswering, match="does not speak the protocol"):
        ask(node(lambda side, asked: side.sock.sendall(b"\xff" * 100)), "get_nodes", timeout_s=60)


def test_silence_ends_after_the_time(node: Callable[[Script], str]) -> None:
    with pytest.raises(NotAnswering, match=r"within 0\.3 s"):
        ask(node(lambda side, asked: side.next() and None), "get_nodes", timeout_s=0.3)  # type: ignore[func-returns-value]


def test_silence_that_ends_sooner_is_told_with_its_own_time(
    node: Callable[[Script], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "REPLY_S", 0.2)
    with pytest.raises(NotAnswering, match=r"within 0\.2 s"):
        ask(node(lambda side, asked: side.next() and None), "get_nodes", timeout_s=60)  # type: ignore[func-returns-value]


def test_a_program_that_waits_says_so(node: Callable[[Script], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "KEEPALIVE_S", 0.05)

    def script(side: Side, asked: RequestReceived) -> None:
        side.reply(asked, b"Added request to API requests queue")
        while side.commands.count("echo-c") < 3:
            event = side.next()
            assert isinstance(event, RequestReceived)
            side.reply(event, event.payload, "ok-m")
        side.say("dapi_res", side.string(dump_json(RESULT)))

    assert call(node(script), FUNCTION, timeout_s=60) == RESULT


def test_absent_daemon_is_reported_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotRunning, match=r"there is no node at .* Make one with: "):
        ask(str(tmp_path), "get_nodes", timeout_s=1)
    (tmp_path / "queue/cluster").mkdir(parents=True)
    with pytest.raises(NotRunning, match=r"clusterd is not running at .* Start it with: clusterd --root .* start"):
        ask(str(tmp_path), "get_nodes", timeout_s=1)
    monkeypatch.setattr("clusterd.status.absence.is_running", lambda root: True)
    with pytest.raises(NotAnswering, match=r"nobody answers at .*c-internal\.sock") as caught:
        ask(str(tmp_path), "get_nodes", timeout_s=1)
    assert not isinstance(caught.value, NotRunning)
