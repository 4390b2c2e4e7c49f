"""The process of the framework, asked directly."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.framework import program
from clusterd.framework.launch import Launched, launch
from clusterd.framework.program import FRAME
from tests.fakes.framework import FakeFramework
from tests.framework.requests import request
from tests.supervisor.helpers import until

KEY = "c98b62a9b6169ac5f67dae55ae4a9088"


class Direct:
    """A process of the program; the test exchanges frames with it."""

    def __init__(
        self, framework: FakeFramework, names: list[tuple[str, str]], launched: Launched | None = None
    ) -> None:
        self.launched = launched or launch(str(framework.python), str(framework.root), "clusterd-fw-1")
        self.pid = self.launched.pid
        self.root = framework.root
        self.launched.connection.settimeout(120)
        setup = {
            "names": [[*name, False] for name in names],
            "mask": [KEY],
            "answer_bytes": 1 << 30,
            "inline_bytes": 65536,
            "threads": 4,
        }
        self.send(program.SETUP, 0, json.dumps(setup).encode())

    def send(self, kind: int, number: int, payload: bytes) -> None:
        self.launched.connection.sendall(FRAME.pack(len(payload), kind, number) + payload)

    def ask(self, number: int, module: str, name: str, **arguments: Any) -> None:
        head = {"out": str(self.root / f"out-{number}"), "path": "", "offset": 0, "size": 0}
        self.send(program.REQUEST, number, json.dumps(head).encode() + b"\n" + request(module, name, **arguments))

    def receive(self) -> tuple[int, int, bytes]:
        size, kind, number = FRAME.unpack(self._read(FRAME.size))
        return kind, number, self._read(size)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.launched.connection.recv(size - len(data))
            if not part:
                raise EOFError(os.read(self.launched.output, 65536).decode())
            data += part
        return data

    def ended(self) -> int:
        """Returns its exit code."""
        return until(lambda: os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT), "it ends").si_status  # type: ignore[union-attr]

    def close(self) -> None:
        self.launched.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


NAMES = [
    ("wazuh.agent", "get_agents"),
    ("wazuh.nothing", "here"),
    *(("wazuh.bad_luck", name) for name in ("echo", "large", "odd", "odd_async", "say", "fork", "hidden", "sleep")),
]


@pytest.fixture(scope="module")
def framework(tmp_path_factory: pytest.TempPathFactory) -> FakeFramework:
    return FakeFramework(tmp_path_factory.mktemp("framework"))


@pytest.fixture(scope="module")
def helper(framework: FakeFramework) -> Iterator[Direct]:
    """One process for all tests that do not end it."""
    direct = Direct(framework, NAMES)
    try:
        kind, _, payload = direct.receive()
        assert kind == program.HELLO
        direct.hello = json.loads(payload)  # type: ignore[attr-defined]
        yield direct
    finally:
        direct.close()


def test_it_says_what_it_has_and_what_it_misses(helper: Direct) -> None:
    hello = helper.hello  # type: ignore[attr-defined]
    assert hello["version"] == "4.14.1"
    assert ["wazuh.agent", "get_agents"] in hello["names"]
    assert [row[:2] for row in hello["missing"]] == [["wazuh.nothing", "here"]]
    assert hello["has_marker"] is False


def test_a_function_is_run_and_its_answer_is_what_peers_expect(helper: Direct) -> None:
    helper.ask(1, "wazuh.agent", "get_agents", agent_list=["001", "099"])
    kind, number, payload = helper.receive()
    assert (kind, number) == (program.ANSWER, 1)
    found = json.loads(payload)["__wazuh_result__"]
    assert found["__class__"] == "AffectedItemsWazuhResult"
    assert [item["id"] for item in found["__object__"]["affected_items"]] == ["001"]
    assert found["__object__"]["failed_items_values"] == [["099"]]


def test_dates_are_values_for_the_function(helper: Direct) -> None:
    moment = {"__wazuh_datetime__": "2025-11-23T10:15:02+00:00"}
    helper.ask(2, "wazuh.bad_luck", "echo", moment=moment, nested={"a": 1})
    types = json.loads(helper.receive()[2])["__wazuh_result__"]["__object__"]["result"]["types"]
    assert types == {"moment": "datetime", "nested": "dict"}


@pytest.mark.parametrize("name", [("os", "system"), ("wazuh.manager", "get_status"), ("wazuh.agent", "add_agent")])
def test_a_name_that_the_daemon_has_not_listed_is_refused(helper: Direct, name: tuple[str, str]) -> None:
    helper.ask(3, *name)
    kind, _, text = helper.receive()
    assert kind == program.REFUSED
    assert b"is not one that is asked for" in text


@pytest.mark.parametrize(
    ("function", "arguments", "kind"),
    [
        ("odd", {"kind": "exit"}, program.FAILED),
        ("odd", {"kind": "interrupt"}, program.FAILED),
        ("odd", {"kind": "value"}, program.FAILED),
        ("odd", {"kind": "circle"}, program.FAILED),
        ("odd", {"kind": "deep"}, program.FAILED),
        ("odd", {"kind": "text"}, program.ANSWER),
        ("odd", {"kind": "nothing"}, program.ANSWER),
        ("odd", {"no such": "argument"}, program.ANSWER),
        ("odd_async", {}, program.FAILED),
    ],
)
def test_whatever_a_function_raises_or_returns_the_process_goes_on(
    helper: Direct, function: str, arguments: dict[str, Any], kind: int
) -> None:
    helper.ask(4, "wazuh.bad_luck", function, **arguments)
    assert helper.receive()[:2] == (kind, 4)
    helper.ask(5, "wazuh.agent", "get_agents")
    assert helper.receive()[:2] == (program.ANSWER, 5)


def test_what_is_printed_is_no_part_of_the_protocol(helper: Direct) -> None:
    helper.ask(6, "wazuh.bad_luck", "say", lines=3)
    assert helper.receive()[:2] == (program.ANSWER, 6)
    printed = os.read(helper.launched.output, 65536).decode()
    assert "noise 2" in printed
    assert "noise of a program" in printed


@pytest.mark.slow
def test_small_answers_pass_a_large_one(helper: Direct) -> None:
    helper.ask(7, "wazuh.bad_luck", "large", megabytes=20)
    helper.ask(8, "wazuh.agent", "get_agents")
    assert helper.receive()[:2] == (program.ANSWER, 8)
    kind, number, size = helper.receive()
    assert (kind, number) == (program.FILE, 7)
    found = json.loads((helper.root / "out-7").read_bytes())
    assert len(found["__wazuh_result__"]["__object__"]["affected_items"]) == 20 * 1024
    assert int(size) == (helper.root / "out-7").stat().st_size


def test_a_function_that_forks_answers_once_and_leaves_no_process(helper: Direct, framework: FakeFramework) -> None:
    helper.ask(9, "wazuh.bad_luck", "fork", text="once")
    kind, number, payload = helper.receive()
    assert (kind, number) == (program.ANSWER, 9)
    child = json.loads(payload)["__wazuh_result__"]["__object__"]["result"]["pid"]
    assert child
    until(lambda: "forked-once-child" in framework.calls, "the child goes on")

    until(lambda: is_gone(child), "the child is gone")
    helper.ask(10, "wazuh.agent", "get_agents")
    assert helper.receive()[:2] == (program.ANSWER, 10)


def test_a_request_in_the_spool_is_read_there(helper: Direct) -> None:
    content = request("wazuh.agent", "get_agents", padding="x" * 200_000)
    path = helper.root / "request"
    path.write_bytes(b"12345" + content)
    head = {"out": str(helper.root / "out"), "path": str(path), "offset": 5, "size": len(content)}
    helper.send(program.REQUEST, 11, json.dumps(head).encode() + b"\n")
    assert helper.receive()[:2] == (program.ANSWER, 11)


@pytest.mark.slow
def test_where_functions_are_marked_others_are_not_run(tmp_path: Path) -> None:
    framework = FakeFramework(tmp_path)
    framework.behave(marked=True)
    direct = Direct(framework, [("wazuh.agent", "get_agents"), ("wazuh.bad_luck", "hidden")])
    try:
        hello = json.loads(direct.receive()[2])
        assert hello["has_marker"]
        assert hello["names"] == [["wazuh.agent", "get_agents"]]
        direct.ask(1, "wazuh.bad_luck", "hidden")
        kind, _, text = direct.receive()
        assert kind == program.REFUSED
        assert b"not marked" in text
    finally:
        direct.close()


@pytest.mark.slow
def test_a_framework_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    framework = FakeFramework(tmp_path)
    framework.behave(**{"import": "fail"})
    direct = Direct(framework, NAMES)
    try:
        kind, _, text = direct.receive()
        assert kind == program.CANNOT
        assert text.startswith(b"ImportError: libfoo")
        assert direct.ended() == 1
    finally:
        direct.close()


@pytest.mark.slow
def test_it_ends_with_its_connection_once_it_has_answered(framework: FakeFramework) -> None:
    direct = Direct(framework, NAMES)
    try:
        assert direct.receive()[0] == program.HELLO
        direct.ask(1, "wazuh.bad_luck", "sleep", seconds=0.3, text="last")
        until(lambda: "slept-last" in framework.calls, "it has begun")
        direct.launched.connection.shutdown(socket.SHUT_WR)
        assert direct.receive()[:2] == (program.ANSWER, 1)
        assert direct.ended() == 0
    finally:
        direct.close()


@pytest.mark.slow
def test_it_ends_without_a_connection_even_if_a_function_does_not(framework: FakeFramework) -> None:
    direct = Direct(framework, NAMES)
    try:
        assert direct.receive()[0] == program.HELLO
        direct.ask(1, "wazuh.bad_luck", "sleep", seconds=3600, text="for-ever")
        until(lambda: "slept-for-ever" in framework.calls, "it has begun")
        direct.launched.connection.close()
        assert direct.ended() == 0
    finally:
        direct.close()


@pytest.mark.slow
def test_it_dies_with_the_process_that_started_it(framework: FakeFramework) -> None:
    """It also ends while its connection is open."""
    ours, theirs = socket.socketpair()
    middle = os.fork()
    if middle == 0:
        try:
            launched = launch(str(framework.python), str(framework.root), "clusterd-fw-1")
            fds = [launched.connection.fileno(), launched.output]
            socket.send_fds(theirs, [str(launched.pid).encode()], fds)
            theirs.recv(1)
        finally:
            os._exit(0)
    data, fds, _, _ = socket.recv_fds(ours, 100, 2)
    direct = Direct(framework, NAMES, Launched(int(data), socket.socket(fileno=fds[0]), fds[1]))
    try:
        assert direct.receive()[0] == program.HELLO
        ours.send(b"x")
        os.waitpid(middle, 0)
        until(lambda: is_gone(direct.pid), "the orphan is gone")
    finally:
        direct.launched.close()
        ours.close()
        theirs.close()


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] in "ZX"
    except FileNotFoundError:
        return True
