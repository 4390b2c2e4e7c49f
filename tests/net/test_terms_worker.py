"""A worker finds the master of the highest term."""

from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.messages.links import MasterAway, TaskNote
from clusterd.net import dial, terms
from clusterd.role import OWN_DIR, NodeRole, read_role
from clusterd.wire.terms import parse_term
from hashing.locks import locked_directory
from tests.net.harness import NetNode, wait_until, worker_settings
from tests.net.scripted_master import HELLO, ScriptedMaster
from tests.net.term_notes import Start, given, lead, note
from tools.rig.peer import exception_json
from tools.rig.ports import free_port

Worker = Callable[..., NetNode]


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
    assert (asked.command, parse_term(asked.payload).term) == (b"term", 0)
    assert read_role(node.root) is None, "before the master itself has said so"
    talker.respond(asked, "ok", note(master=second.node))
    hello = talker.read()
    assert (hello.command, hello.payload) == (b"hello", HELLO)
    talker.respond(hello, "ok", "Client w1 added")
    node.logged("Successfully connected to master.")
    kept = read_role(node.root)
    assert kept is not None
    assert (kept.term, kept.role, kept.master, kept.master_name) == (3, "", second.node, "m2")


def test_a_worker_joins_the_master_of_a_higher_term_when_the_disk_has_the_term_and_programs_do_not_wait(
    start: Start, bosses: list[ScriptedMaster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terms, "AGAIN_S", 0.2)
    boss = bosses[0]
    role = NodeRole(2, master=boss.node, master_name="m2")
    node = start(given(role, worker_settings, "w1", (boss.node,)))
    with locked_directory(Path(node.root, OWN_DIR)):
        talker = boss.accept()
        talker.respond(talker.read(), "ok", note(master=boss.node))
        node.logged("The term 3 is not on disk yet")
        assert node.local().ask("echo", "x").payload == b"x"
        assert read_role(node.root) == role
        with pytest.raises(TimeoutError):
            talker.read(0.2)
    assert talker.read().command == b"hello"
    kept = read_role(node.root)
    assert kept is not None
    assert kept.term == 3


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


def test_a_worker_that_has_lost_its_master_asks_again_and_again_who_leads_now(
    start: Start, bosses: list[ScriptedMaster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a term the next round would come after ten minutes here."""
    monkeypatch.setattr(dial, "FIRST_RETRY_S", 600.0)
    first, _ = bosses
    role = NodeRole(3, master=first.node, master_name="m2")
    start(given(role, worker_settings, "w1", (first.node,), connection_retry_s=600))
    talker = first.accept()
    talker.respond(talker.read(), "ok", note(master=first.node))
    talker.respond(talker.read(), "ok", "Client w1 added")
    talker.close()
    for _ in range(3):
        # It leads no more, and nobody does.
        talker = first.accept()
        talker.respond(talker.read(), "ok", note(leads=False, master=first.node))
        talker.close()
    first.accept()


def test_master_that_closes_connections_while_it_changes_its_role_is_not_taken_for_one_with_another_key(
    start: Start, bosses: list[ScriptedMaster]
) -> None:
    boss = bosses[0]
    node = start(given(NodeRole(3, master=boss.node, master_name="m2"), worker_settings, "w1", (boss.node,)))
    talker = boss.accept()
    talker.respond(talker.read(), "ok", note(master=boss.node))
    talker.respond(talker.read(), "ok", "Client w1 added")
    node.logged("Successfully connected to master.")
    talker.close()
    boss.accept().close()
    line = node.logged("No answer from the master at")
    assert line.startswith("INFO: ")
    assert "as a node does that begins or ceases to be the master" in line


def test_master_that_hangs_up_while_nothing_changes_may_have_another_key(
    start: Start, bosses: list[ScriptedMaster]
) -> None:
    boss = bosses[0]
    node = start(given(NodeRole(3, master=boss.node, master_name="m2"), worker_settings, "w1", (boss.node,)))
    boss.accept().close()
    line = node.logged("No answer from the master at")
    assert line.startswith("WARNING: ")
    assert "does it have the same cluster key?" in line


def test_a_node_that_does_not_lead_sends_a_worker_on_to_the_master(start: Start, bosses: list[ScriptedMaster]) -> None:
    first, second = bosses
    start(given(NodeRole(3, master=first.node, master_name="m2"), worker_settings, "w1", (first.node,)))
    lead(first, leads=False, master=second.node)
    assert second.accept().read().command == b"term"


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


def test_a_worker_follows_the_one_of_two_masters_that_counts(start: Start, bosses: list[ScriptedMaster]) -> None:
    first, second = bosses
    role = NodeRole(3, master=first.node, master_name="mm")
    node = start(given(role, worker_settings, "w1", (first.node, second.node), connection_retry_s=0.2))
    lead(first, node="aa", master_name="aa")
    node.logged("leads in term 3 as mm does, whose name comes later")
    talker = second.accept()
    talker.respond(talker.read(), "ok", note(node="zz", master_name="zz", master=second.node))
    assert talker.read().command == b"hello"
    kept = read_role(node.root)
    assert kept is not None
    assert (kept.term, kept.master_name) == (3, "zz")
