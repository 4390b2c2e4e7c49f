"""A master that hears of a higher term."""

import asyncio
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.net import ask_back, process, tell_terms, terms
from clusterd.net.ask_back import AskBack
from clusterd.net.dial import parse_address
from clusterd.net.term_question import TermAnswer, ask_term
from clusterd.role import OWN_DIR, ROLE_FILE, NodeRole, read_role
from clusterd.rounds import Rounds
from clusterd.wire.terms import TermNote, build_term, not_leading, parse_term, read_refusal
from hashing.locks import locked_directory
from tests.net.harness import KEY, MASTER, NetNode, master_settings, wait_until, worker_settings
from tests.net.scripted_master import ScriptedMaster
from tests.net.term_notes import Start, given, lead, note
from tools.rig.ports import free_port

Master = Callable[..., NetNode]


def claim(node: NetNode, **fields: Any) -> TermNote:
    """A node with the key claims that another one leads. Returns this node's answer."""
    return parse_term(node.connect().ask("term", note(**{"leads": False, "node": "w2"} | fields)).payload)


def test_a_master_that_hears_of_a_higher_term_leads_no_more(
    master: Master, bosses: list[ScriptedMaster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "tell_supervisor", lambda: None)
    node, boss = master(), bosses[0]
    joined = node.join("w1")
    answer = claim(node, master=boss.node)
    assert (answer.term, answer.leads, answer.node, answer.master) == (0, True, MASTER, "")
    lead(boss)
    assert joined.is_closed()
    node.logged(f"ERROR: [Master] [Net] This node leads no more: term 3 exists, its master is {boss.node} (m2).")
    node.logged(f"m2 at {boss.node} leads in term 3, and this node in term 0: it leads no more. w2 at 127.0.0.1 said")
    refused = node.connect().ask("hello", f"w1 wazuh worker {node.settings.clusterd.version}")
    assert refused.command == b"err"
    assert f"does not lead: the master of term 3 is {boss.node} (m2)".encode() in refused.payload
    kept = read_role(node.root)
    assert kept is not None
    assert (kept.term, kept.led) == (3, 0)
    assert node.board.deposed_term == 3


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ({"leads": False, "master": "127.0.0.9:9"}, "m2 there does not lead and has seen term 3"),
        ({"term": 0}, "m2 there leads in term 0"),
        ({"cluster": "other"}, "another cluster"),
        (None, "nobody listens"),
    ],
)
def test_a_master_that_hears_of_a_term_without_a_leader_goes_on(
    master: Master, bosses: list[ScriptedMaster], answer: dict[str, Any] | None, word: str
) -> None:
    node = master()
    joined = node.join("w1")
    where = f"127.0.0.1:{free_port()}" if answer is None else bosses[0].node
    claim(node, master=where)
    if answer is not None:
        lead(bosses[0], **answer)
    line = node.logged("Not believed: w2 at 127.0.0.1 says that")
    assert line.startswith("WARNING: ")
    assert word in line
    assert joined.ask("echo", "x").payload == b"x"
    assert node.join("w3").ask("echo", "x").payload == b"x"
    assert read_role(node.root) is None
    assert node.board.deposed_term == 0


def test_a_term_without_an_address_causes_no_question(master: Master) -> None:
    node = master()
    claim(node)
    claim(node, term=9, leads=True)
    assert node.join("w1").ask("echo", "x").payload == b"x"
    assert read_role(node.root) is None
    assert not node.lines("believed")


def test_a_flood_of_rising_terms_costs_a_question_a_second_and_one_line(master: Master) -> None:
    node = master()
    where = f"127.0.0.1:{free_port()}"
    stranger = node.connect()
    for term in range(3, 203):
        stranger.ask("term", note(leads=False, node="w2", term=term, master=where))
    node.logged("Not believed")
    assert node.join("w1").ask("echo", "x").payload == b"x"
    assert len(node.lines("term")) == 1
    assert read_role(node.root) is None


def test_questions_are_asked_one_after_the_other_with_a_pause_and_of_each_host_the_last_claim_counts() -> None:
    asked: list[int] = []

    def ask(note: TermNote) -> TermAnswer:
        asked.append(note.term)
        return TermAnswer("closed", "nobody listens")

    async def story() -> None:
        known = SimpleNamespace(is_news=lambda note: True, term=0, leads=True)
        lines = SimpleNamespace(rounds=Rounds(lambda *_: None), role_tag="Master", abuse_line=lambda *_, **__: None)
        asker = AskBack(cast(Any, lines), cast(Any, known), ask=ask, pace_s=60)
        task = asyncio.create_task(asker.run())
        asker.claim(TermNote(1, False, "w", "127.0.0.9:1"), "127.0.0.1")
        while not asked:
            await asyncio.sleep(0.001)
        for term in range(2, 32):
            asker.claim(TermNote(term, False, "w", "127.0.0.9:1"), f"127.0.0.{term % 3}")
            await asyncio.sleep(0.002)
        assert asked == [1]
        assert {host: note.term for host, note in asker._claims.items()} == {
            "127.0.0.0": 30, "127.0.0.1": 31, "127.0.0.2": 29
        }  # fmt: skip
        for number in range(300):
            asker.claim(TermNote(9, False, "w", "127.0.0.9:1"), f"host{number}")
        assert len(asker._claims) == ask_back.MOST_CLAIMS
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(story())


def test_a_full_disk_does_not_keep_a_master_that_was_replaced(
    start: Start, bosses: list[ScriptedMaster], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "tell_supervisor", lambda: None)
    monkeypatch.setattr(terms, "AGAIN_S", 0.2)
    role = NodeRole(2, "master", 2, "127.0.0.1:1", MASTER)
    real, is_full = terms.update_role, Path(bosses[0].node.replace(":", "-"))

    def full(root: str, *arguments: Any, **options: Any) -> NodeRole:
        if not (Path(root) / is_full).exists():
            raise OSError(28, "No space left on device")
        return real(root, *arguments, **options)

    monkeypatch.setattr(terms, "update_role", full)
    node = start(given(role, master_settings))
    joined = node.join("w1")
    claim(node, master=bosses[0].node)
    lead(bosses[0])
    assert joined.is_closed()
    node.logged("ERROR: [Master] [Net] The term 3 cannot be kept on disk: [Errno 28]")
    assert node.board.deposed_term == 3, "what the others look at"
    assert read_role(node.root) == role
    (Path(node.root) / is_full).touch()
    kept = wait_until(lambda: read_role(node.root) != role and read_role(node.root), "the term on disk")
    assert (kept.term, kept.led) == (3, 2)
    assert len(node.lines("cannot be kept on disk")) == 1


def test_a_disk_that_hangs_holds_up_no_link_of_a_master_that_is_replaced(
    start: Start, bosses: list[ScriptedMaster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process keeps the lock here, for as long as this one wants to write."""
    monkeypatch.setattr(process, "tell_supervisor", lambda: None)
    monkeypatch.setattr(terms, "AGAIN_S", 0.2)
    role = NodeRole(2, "master", 2, "127.0.0.1:1", MASTER)
    node = start(given(role, master_settings))
    joined, program = node.join("w1"), node.local()
    with locked_directory(Path(node.root, OWN_DIR)):
        claim(node, master=bosses[0].node)
        lead(bosses[0])
        assert joined.is_closed()
        assert program.ask("echo", "x").payload == b"x"
        node.logged("ERROR: [Master] [Net] The term 3 is not on disk yet: the disk, or another process with the lock")
        assert program.ask("echo", "x").payload == b"x"
        refused = node.connect().ask("hello", f"w1 wazuh worker {node.settings.clusterd.version}")
        assert refused.command == b"err"
        assert node.board.deposed_term == 3
        assert read_role(node.root) == role
        assert not node.lines("This node leads no more"), "the supervisor is told when the disk has it"
    node.logged("This node leads no more")
    kept = read_role(node.root)
    assert kept is not None
    assert (kept.term, kept.led) == (3, 2)


@pytest.mark.parametrize("role", [None, NodeRole(2, "master", 2, "127.0.0.1:1", MASTER)])
def test_a_master_whose_net_ends_before_the_disk_has_the_higher_term_does_not_lead_again(
    start: Start, bosses: list[ScriptedMaster], monkeypatch: pytest.MonkeyPatch, role: NodeRole | None
) -> None:
    monkeypatch.setattr(process, "tell_supervisor", lambda: None)
    node = start(master_settings if role is None else given(role, master_settings))
    Path(node.root, OWN_DIR).mkdir(exist_ok=True)
    hello = f"w1 wazuh worker {node.settings.clusterd.version}"
    with locked_directory(Path(node.root, OWN_DIR)):
        claim(node, master=bosses[0].node)
        lead(bosses[0])
        wait_until(lambda: node.board.deposed_term == 3, "the master is deposed")
        node.stop(signal.SIGKILL)
        node.spawn()
        wait_until(lambda: node.row().state == "ready", "net is ready")
        assert node.connect().ask("hello", hello).command == b"err"
        assert read_role(node.root) == role
    node.logged("This node leads no more: term 3 exists")
    kept = read_role(node.root)
    assert kept is not None
    assert (kept.term, kept.led) == (3, 0 if role is None else 2)
    node.connect().ask("term", note(master=bosses[0].node))
    lead(bosses[0])
    node.logged(f"The master of term 3 is m2 at {bosses[0].node}")
    assert bosses[0].node.encode() in node.connect().ask("hello", hello).payload


def test_a_lower_or_equal_term_changes_nothing_for_a_master(start: Start) -> None:
    role = NodeRole(3, "master", 3, "127.0.0.1:1", MASTER)
    node = start(given(role, master_settings))
    joined = node.join("w1")
    for term in (0, 2, 3):
        told = claim(node, term=term, master="127.0.0.9:9")
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
    start: Start, bosses: list[ScriptedMaster], monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.setattr(process, "tell_supervisor", lambda: None)
    node = start(given(NodeRole(3, "master", 3, "127.0.0.1:1", MASTER), master_settings))
    path = Path(node.root, ROLE_FILE)
    path.unlink() if content is None else path.write_text(content)
    claim(node, term=4, master=bosses[0].node)
    lead(bosses[0], term=4)
    node.logged("This node leads no more")
    kept = read_role(node.root)
    assert kept is not None
    assert (kept.term, kept.role, kept.led) == (4, "master", 3), "deposed, also after a restart"


@pytest.mark.parametrize(("name", "leads"), [("zz", False), ("aa", True)])
def test_of_two_masters_of_one_term_the_name_that_comes_last_counts(
    start: Start, bosses: list[ScriptedMaster], monkeypatch: pytest.MonkeyPatch, name: str, leads: bool
) -> None:
    monkeypatch.setattr(process, "tell_supervisor", lambda: None)
    boss = bosses[0]
    node = start(given(NodeRole(3, "master", 3, "127.0.0.1:1", MASTER), master_settings))
    joined = node.join("w1")
    other = {"node": name, "master_name": name}
    node.connect().ask("term", note(master=boss.node, **other))
    node.logged(f"ERROR: [Master] [Net] Two masters: {name} at 127.0.0.1 leads in term 3, and so does this node.")
    if not leads:
        lead(boss, **other)
        assert joined.is_closed()
        node.logged(f"This node leads no more: term 3 exists, its master is {boss.node} ({name})")
    kept = read_role(node.root)
    assert kept is not None
    assert (kept.led, kept.master_name) == ((3, MASTER) if leads else (0, name))
    assert parse_term(node.connect().ask("term", note(term=0)).payload).leads == leads


def test_a_question_for_the_term_leaves_no_line_of_a_failed_handshake(master: Master) -> None:
    node = master()
    talker = node.connect()
    assert parse_term(talker.ask("term", note(term=0, leads=False)).payload) == TermNote(
        0, True, MASTER, "", MASTER, node.settings.cluster.name
    )
    talker.close()
    node.join("w1")
    assert not node.lines("during handshake")


def test_a_term_that_is_nested_deeply_is_refused_and_the_link_stays(master: Master) -> None:
    talker = master().connect()
    refused = talker.ask("term", b'{"x":' + b"[" * 2000)
    assert (refused.command, b"nested too deeply" in refused.payload) == (b"err", True)
    assert talker.ask("term", note(term=0, leads=False)).command == b"ok"


def test_a_demoted_node_tells_callers_where_the_master_is(start: Start, bosses: list[ScriptedMaster]) -> None:
    boss = bosses[0]
    role = NodeRole(3, "worker", 1, boss.node, "m2")
    node = start(given(role, worker_settings, "w0", ()))
    talker = boss.accept()
    assert parse_term(talker.read().payload).term == 3
    refused = node.connect().ask("hello", f"w1 wazuh worker {node.settings.clusterd.version}")
    assert f"the master of term 3 is {boss.node} (m2)".encode() in refused.payload
    worker = start(lambda root: worker_settings(root, "w1", (f"127.0.0.1:{node.settings.cluster.port}",)))
    lead(boss)
    kept = wait_until(lambda: read_role(worker.root), "the other worker was sent here")
    assert kept.master == boss.node


def test_a_promoted_master_tells_the_old_one(start: Start, master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "tell_supervisor", lambda: None)
    monkeypatch.setattr(tell_terms, "AGAIN_S", 0.2)
    old = master(node_name="old")
    node, port = f"127.0.0.1:{old.settings.cluster.port}", free_port()
    where = f"127.0.0.1:{port}"
    new = start(given(NodeRole(1, "master", 1, where, MASTER, (node,)), master_settings, port=port))
    old.logged(f"This node leads no more: term 1 exists, its master is {where}")
    new.logged(f"old at {node} knows that this node leads in term 1")


def test_answers_to_a_question_for_the_term_are_distinguished(master: Master) -> None:
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
    for name in ("no.such.host.invalid", "10.0.0..1"):
        assert ask_term(settings, parse_address(name, 1), own, 5).kind == "address"


@pytest.mark.parametrize(
    "bad",
    [
        *(
            b"",
            b"[]",
            b'{"x":' + b"[" * 2000,
            note(term=-1),
            note(term=2**60),
            note(master="a b"),
            note(master="x\n"),
            note(node="../x"),
        ),
        *(note(master=f"10.0.0.2:{port}") for port in (0, 65536, 99999)),
    ],
)
def test_a_note_of_anything_else_is_refused(bad: bytes) -> None:
    with pytest.raises(Exception, match="1000"):
        parse_term(bad)


def test_refusals_are_read_back() -> None:
    made = TermNote(7, False, "x", "[fe80::1]:1516", "m2")
    assert parse_term(build_term(made)) == made
    assert read_refusal(not_leading(made)) == TermNote(7, False, "", "[fe80::1]:1516", "m2")
    assert read_refusal(not_leading(TermNote(7, False, "x"))) == TermNote(7, False, "")
    assert read_refusal(not_leading(TermNote(7, False, "x", "10.0.0.2:99999"))) is None
