"""Terms between nodes: who is refused, who is asked next, and a master that learns that it leads no more."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd.messages.links import MasterAway, TaskNote
from clusterd.net import process
from clusterd.net.dial import parse_address
from clusterd.net.term_question import ask_term
from clusterd.role import ROLE_FILE, NodeRole, read_role, update_role
from clusterd.wire.terms import TermNote, build_term, not_leading, parse_term, read_refusal
from tests.net.harness import KEY, MASTER, NetNode, free_port, master_settings, wait_until, worker_settings
from tests.net.test_worker import HELLO, ScriptedMaster
from tools.rig.peer import exception_json

Worker = Callable[..., NetNode]
Master = Callable[..., NetNode]
Start = Callable[..., NetNode]


@pytest.fixture
def bosses() -> Iterator[list[ScriptedMaster]]:
    made = [ScriptedMaster(), ScriptedMaster()]
    yield made
    for one in made:
        one.close()


def given(role: NodeRole, settings_of: Callable[..., Any], *arguments: Any, **changes: Any) -> Callable[[str], Any]:
    """Settings of a node whose role is on disk."""

    def made(root: str) -> Any:
        update_role(root, lambda before: role)
        return settings_of(root, *arguments, **changes).with_role(role)

    return made


def note(**fields: Any) -> bytes:
    return json.dumps({"term": 3, "leads": True, "node": "m2", "master": "", "master_name": "m2"} | fields).encode()


def refusal(term: int, address: str, name: str = "m2") -> bytes:
    return exception_json(1000, f"this node does not lead: the master of term {term} is {address} ({name})")


def test_a_worker_without_a_term_says_hello_first_and_nothing_else(
    worker: Worker, bosses: list[ScriptedMaster]
) -> None:
    node = worker("w1", bosses[0].node)
    bosses[0].welcome()
    node.logged("Successfully connected to master.")
    assert read_role(node.root) is None


def test_a_refusal_that_names_the_master_is_followed_at_once(worker: Worker, bosses: list[ScriptedMaster]) -> None:
    first, second = bosses
    node = worker("w1", first.node, connection_retry_s=600)
    talker = first.accept()
    talker.respond(talker.read(), "err", refusal(3, second.node))
    talker = second.accept()
    asked = talker.read()
    assert (asked.command, parse_term(asked.payload).term) == (b"term", 3)
    talker.respond(asked, "ok", note(master=second.node))
    hello = talker.read()
    assert (hello.command, hello.payload) == (b"hello", HELLO)
    talker.respond(hello, "ok", "Client w1 added")
    node.logged("Successfully connected to master.")
    kept = read_role(node.root)
    assert kept is not None
    assert (kept.term, kept.role, kept.master, kept.master_name) == (3, "", second.node, "m2")


def test_every_node_of_the_list_is_tried_and_the_known_master_first(start: Start, bosses: list[ScriptedMaster]) -> None:
    first, second = bosses
    closed = f"127.0.0.1:{free_port()}"
    role = NodeRole(3, master=second.node, master_name="m2")
    start(given(role, worker_settings, "w1", (closed, first.node)))
    talker = second.accept()
    talker.respond(talker.read(), "ok", note(leads=False, node="x", master=first.node))
    talker.close()
    talker = first.accept()
    assert talker.read().command == b"term"


@pytest.mark.parametrize("answer", [("ok", note(term=2)), ("ok", note(term=0)), ("err", b"unknown command 'b'term''")])
def test_a_master_of_a_lower_term_is_refused(
    start: Start, bosses: list[ScriptedMaster], answer: tuple[str, bytes]
) -> None:
    boss = bosses[0]
    node = start(given(NodeRole(3, master="127.0.0.9:1"), worker_settings, "w1", (boss.node,)))
    talker = boss.accept()
    talker.respond(talker.read(), *answer)
    line = node.logged("Refused: the master at")
    assert line.startswith("ERROR: ")
    assert "this node has seen term 3, whose master is 127.0.0.9:1" in line
    assert talker.is_closed(), "without a hello"
    assert node.sync is not None
    node.sync.expect(MasterAway, lambda message: "REFUSED" in message.reason)
    kept = read_role(node.root)
    assert kept is not None
    assert kept.term == 3


def test_a_connected_worker_asks_a_master_that_has_something_to_say(
    worker: Worker, bosses: list[ScriptedMaster]
) -> None:
    boss = bosses[0]
    node = worker("w1", boss.node)
    talker = boss.welcome()
    assert node.sync is not None
    link = node.sync.link(kind="master").link
    node.sync.send(TaskNote(link, "caps", "digest,push", True))
    node.sync.send(TaskNote(link, "caps", "push,term", True))
    asked = talker.read()
    assert (asked.command, parse_term(asked.payload).term) == (b"term", 0)
    talker.respond(asked, "ok", note(term=5, master=boss.node))
    kept = wait_until(lambda: read_role(node.root), "the term on disk")
    assert (kept.term, kept.master) == (5, boss.node)


def test_a_master_that_hears_of_a_higher_term_leads_no_more(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "tell_supervisor", lambda: None)
    node = master()
    joined = node.join("w1")
    stranger = node.connect()
    told = stranger.ask("term", note(leads=False, node="w2", master="127.0.0.9:99", master_name="m2"))
    answer = parse_term(told.payload)
    assert (answer.term, answer.leads, answer.node, answer.master) == (3, False, MASTER, "127.0.0.9:99")
    assert joined.is_closed()
    node.logged("ERROR: [Master] [Net] This node leads no more: term 3 exists, its master is 127.0.0.9:99 (m2).")
    node.logged("w2 at 127.0.0.1 has seen term 3, and this node leads in term 0")
    refused = node.connect().ask("hello", f"w1 wazuh worker {node.settings.clusterd.version}")
    assert refused.command == b"err"
    assert b"does not lead: the master of term 3 is 127.0.0.9:99 (m2)" in refused.payload
    kept = read_role(node.root)
    assert kept is not None
    assert (kept.term, kept.led) == (3, 0)


def test_a_lower_or_equal_term_changes_nothing_for_a_master(start: Start) -> None:
    role = NodeRole(3, "master", 3, "127.0.0.1:1", MASTER)
    node = start(given(role, master_settings))
    joined = node.join("w1")
    for term in (0, 2, 3):
        told = parse_term(node.connect().ask("term", note(term=term, leads=False, master="127.0.0.9:9")).payload)
        assert (told.term, told.leads, told.master) == (3, True, "127.0.0.1:1")
    assert node.connect().ask("term", b"{").command == b"err"
    assert joined.ask("echo", "x").payload == b"x"
    assert read_role(node.root) == role
    node.connect().ask("term", note(node="other"))
    node.logged("ERROR: [Master] [Net] Two masters: other at 127.0.0.1 leads in term 3, and so does this node.")


def test_the_term_of_another_cluster_with_the_same_key_changes_nothing(master: Master) -> None:
    node = master()
    joined = node.join("w1")
    assert b"another cluster" in node.connect().ask("term", note(term=9, cluster="other")).payload
    own = TermNote(9, True, "w2", "127.0.0.9:9", cluster="other")
    answer = ask_term(node.settings, parse_address(f"127.0.0.1:{node.settings.cluster.port}", 1), own, 60.0)
    assert answer.note is None
    assert read_role(node.root) is None
    assert joined.ask("echo", "x").payload == b"x"


def test_a_master_without_the_capability_hears_of_no_term(master: Master) -> None:
    node = master(caps=())
    assert node.connect().ask("term", note(term=9)).command == b"err"
    assert read_role(node.root) is None
    node.join("w1")


@pytest.mark.parametrize("content", [None, "{"])
def test_a_higher_term_is_kept_where_the_file_is_gone_or_damaged(
    start: Start, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(process, "tell_supervisor", lambda: None)
    node = start(given(NodeRole(3, "master", 3, "127.0.0.1:1", MASTER), master_settings))
    path = Path(node.root, ROLE_FILE)
    path.unlink() if content is None else path.write_text(content)
    node.connect().ask("term", note(term=4, node="w2", leads=False, master="127.0.0.9:9"))
    kept = read_role(node.root)
    assert kept is not None
    assert (kept.term, kept.role, kept.led) == (4, "master", 3), "deposed, also after a restart"


def test_a_question_for_the_term_leaves_no_line_of_a_failed_handshake(master: Master) -> None:
    node = master()
    talker = node.connect()
    assert parse_term(talker.ask("term", note(term=0, leads=False)).payload) == TermNote(
        0, True, MASTER, "", MASTER, node.settings.cluster.name
    )
    talker.close()
    node.join("w1")
    assert not node.lines("during handshake")


def test_a_demoted_node_tells_who_dials_it_where_the_master_is(start: Start, bosses: list[ScriptedMaster]) -> None:
    boss = bosses[0]
    role = NodeRole(3, "worker", 1, boss.node, "m2")
    node = start(given(role, worker_settings, "w0", ()))
    talker = boss.accept()
    assert parse_term(talker.read().payload).term == 3
    refused = node.connect().ask("hello", f"w1 wazuh worker {node.settings.clusterd.version}")
    assert f"the master of term 3 is {boss.node} (m2)".encode() in refused.payload
    worker = start(lambda root: worker_settings(root, "w1", (f"127.0.0.1:{node.settings.cluster.port}",)))
    assert parse_term(boss.accept().read().payload).term == 3, "the other worker was sent here"
    assert read_role(worker.root)


def test_a_promoted_master_tells_the_old_one(start: Start, master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "tell_supervisor", lambda: None)
    old = master(node_name="old")
    node = f"127.0.0.1:{old.settings.cluster.port}"
    new = start(given(NodeRole(1, "master", 1, "127.0.0.9:1", MASTER, (node,)), master_settings))
    old.logged("This node leads no more: term 1 exists, its master is 127.0.0.9:1")
    new.logged("old at 127.0.0.1")


def test_what_answers_a_question_for_the_term_is_told_apart(master: Master) -> None:
    node = master()
    settings = node.settings
    own = TermNote(0, False, "w1")

    def asked(port: int, key: str = KEY, timeout_s: float = 60.0) -> str:
        block = master_settings(node.root, cluster_key=key.encode())
        return ask_term(block, parse_address(f"127.0.0.1:{port}", 1), own, timeout_s).kind

    assert asked(settings.cluster.port) == "known"
    assert asked(settings.cluster.port, "f" * 32) == "key"
    assert asked(free_port()) == "closed"
    with socket.create_server(("127.0.0.1", 0)) as frozen:
        assert asked(frozen.getsockname()[1], timeout_s=0.2) == "silent"
    assert ask_term(settings, parse_address("no.such.host.invalid", 1), own, 5).kind == "address"


@pytest.mark.parametrize(
    "bad", [b"", b"[]", note(term=-1), note(term=2**60), note(master="a b"), note(master="x\n"), note(node="../x")]
)
def test_a_note_of_anything_else_is_refused(bad: bytes) -> None:
    with pytest.raises(Exception, match="1000"):
        parse_term(bad)


def test_refusals_are_read_back() -> None:
    made = TermNote(7, False, "x", "[fe80::1]:1516", "m2")
    assert parse_term(build_term(made)) == made
    assert read_refusal(not_leading(made)) == TermNote(7, False, "", "[fe80::1]:1516", "m2")
    assert read_refusal(not_leading(TermNote(7, False, "x"))) == TermNote(7, False, "")
