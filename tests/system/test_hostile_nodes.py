"""A node that has the key and is malicious or broken: it gets errors, and every other node is served."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clusterd.status.status import StatusReader
from tests.conftest import KEY, rigs
from tools.rig.nodes import Rig
from tools.rig.peer import PeerMessage, ScriptedLink, dial, exception_json, wait_until
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow

Answer = tuple[bytes, bytes] | None


def answers_ok(message: PeerMessage) -> Answer:
    return None if message.command in (b"ok", b"err") else (b"ok", b"")


def answers_nothing(message: PeerMessage) -> Answer:
    return None


@pytest.fixture(scope="module")
def running() -> Iterator[Rig]:
    with rigs() as make:
        made = make(0)
        made.start("master")
        yield made


@pytest.fixture
def rig(running: Rig) -> Iterator[Rig]:
    """A master; it has noticed that the nodes of the test left."""
    yield running
    reader = StatusReader(str(running.master.root))
    wait_until(lambda: not reader.read_sync()["peers"], 60, "the master has no worker")


@contextmanager
def joined(rig: Rig, name: str, answer: Any = answers_ok) -> Iterator[ScriptedLink]:
    link = ScriptedLink(dial((HOST, rig.master.port)), KEY, answer, name)
    link.start()
    try:
        assert link.ask("hello", f"{name} rig worker 4.14.1").command == b"ok"
        yield link
    finally:
        link.close()


def log_path(rig: Rig) -> Path:
    return rig.master.root / "logs/cluster.log"


HUGE = "A" * 3_000_000
LONG = "A" * 40_000
WORD_FIRST = ("syn_i_w_m_e", "dapi", "dapi_res", "dapi_err", "sendsync", "file_end", "file_upd", "str_upd")


def queries_with(text: str) -> list[dict[str, Any]]:
    """Arguments of get_nodes that are wrong in every way."""
    sort = {"fields": [text], "order": "asc"}
    return [
        {text: 1},
        {"filter_node": [text]},
        {"limit": text},
        {"select": [text]},
        {"sort": sort},
        {"filter_type": text},
    ]


@pytest.mark.parametrize("text", [HUGE, LONG], ids=["huge", "long"])
def test_long_texts_of_a_node_stay_out_of_log_status_and_answers(rig: Rig, text: str) -> None:
    word = text.encode() + b" x"
    failure = b"None " + exception_json(1000, text)
    asked: list[tuple[str, bytes]] = [
        ("syn_i_w_m_r", failure),
        ("cancel_task", failure),
        *((command, word) for command in WORD_FIRST),
        ("new_file", text.encode()),
        ("new_str", text.encode()),
        ("syn_a_w_m", text.encode()),
        ("get_health", json.dumps(text).encode()),
        *(("get_nodes", json.dumps(arguments).encode()) for arguments in queries_with(text)),
    ]
    with joined(rig, "evil") as link:
        for command, payload in asked:
            before = log_path(rig).stat().st_size
            answer = link.ask(command, payload, timeout_s=30)
            assert len(answer.payload) < 5000, command
            assert log_path(rig).stat().st_size - before < 5000, command
        assert link.ask("echo-c", b"still here").payload == b"still here"
    assert "Traceback" not in log_path(rig).read_text()
    assert len(json.dumps(rig.status("master"))) < 20_000


def test_small_request_cannot_make_the_readable_text_grow(rig: Rig) -> None:
    nested = {"EXECUTABLE_NAME": "{a}" * 1000, "a": "{b}" * 1000, "b": "x" * 20_000}
    error = {"__class__": "WazuhClusterError", "__object__": {"code": 3019, "extra_message": nested}}
    failure = {"__wazuh_exception__": error}
    with joined(rig, "evil") as link:
        before = log_path(rig).stat().st_size
        assert link.ask("cancel_task", b"None " + json.dumps(failure).encode()).command == b"ok"
    assert log_path(rig).stat().st_size - before < 10_000


def test_silent_node_is_not_informed_without_end(rig: Rig) -> None:
    with joined(rig, "silent", answers_nothing) as link, joined(rig, "good") as good:
        answers = [link.ask("sendsync", b"client1 {}").command for _ in range(80)]
        assert answers[:64] == [b"ok"] * 64
        assert answers[64:] == [b"err"] * 16
        for _ in range(200):
            assert good.ask("sendsync", b"client1 {}").command == b"ok"


@pytest.mark.parametrize("size", [10, 100_000])
def test_refusal_of_nothing_is_not_refused(rig: Rig, size: int) -> None:
    """Two nodes that refuse each other's refusals would never end."""
    with joined(rig, "confused") as link:
        link.tell("err", b"x" * size)
        assert link.ask("echo-c", b"x").payload == b"x"
        assert not [seen for seen in link.record if not seen.sent and seen.command == "err"]


def test_answers_to_what_nobody_asked_do_not_fill_the_log(rig: Rig) -> None:
    """Each is a line with its text, and a line of this size arrives within a tenth of a millisecond."""
    with joined(rig, "talker") as link:
        before = log_path(rig).stat().st_size
        for word in ("syn_w_g_err", "syn_wgc_err", "cancel_task") * 300:
            link.tell(word, b"None " + exception_json(1000, "x" * 3000))
        assert link.ask("echo", b"x", timeout_s=60).payload == b"x"
        new = log_path(rig).read_text()[before:]
    assert len(new) < 700_000
    assert new.count("[Worker talker] [Log] More than 600 lines or 256 KiB about this worker in 10 s") >= 1
