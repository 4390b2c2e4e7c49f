"""A master in an election serves only under its lease, even after it was stopped for any time."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from clusterd.messages.links import LinkDown, PeerRequest, Reply, Request, Unanswered
from clusterd.net import dial, fence, process
from clusterd.role import NodeRole, update_role
from clusterd.settings import HaSettings
from clusterd.signals import ROLE_WRITTEN
from clusterd.wire.terms import TermNote, build_term, parse_term
from ipc.board import FOR_EVER_NS, HANDED_OVER_NS
from tests.net.harness import MASTER, NetNode, master_settings, wait_until, worker_settings
from tests.net.scripted_master import ScriptedMaster

Start = Callable[..., NetNode]
OSSEC = (
    "<ossec_config><cluster><name>wazuh</name><node_name>w1</node_name><node_type>worker</node_type>"
    "<key>0123456789abcdef0123456789abcdef</key><port>1516</port><bind_addr>127.0.0.1</bind_addr><nodes>"
    "<node>127.0.0.1</node></nodes><hidden>no</hidden><disabled>no</disabled></cluster></ossec_config>"
)
ROLE = NodeRole(7, "master", 7, "127.0.0.1:1", MASTER)
NOT_LEADING = "this node does not lead now"


def in_s(seconds: float) -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9)


def elected(root: str) -> Any:
    update_role(root, lambda before: ROLE)
    return master_settings(root, ha=HaSettings(enabled=True, replica=True), serves_store=True).with_role(ROLE)


def hello(node: NetNode) -> Any:
    return node.connect().ask("hello", f"w1 wazuh worker {node.settings.clusterd.version}")


def code_of(payload: bytes) -> int:
    code: int = json.loads(payload)["__wazuh_exception__"]["__object__"]["code"]
    return code


@pytest.fixture
def quick_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """For nodes that are forked after this: requests do not wait long for the next leader."""
    monkeypatch.setattr(fence, "CHANGE_S", 0.3)


def test_nobody_joins_before_there_is_a_lease_and_everybody_with_one(start: Start) -> None:
    node = start(elected)
    refused = hello(node)
    assert (refused.command, b"this node does not lead" in refused.payload) == (b"err", True)
    asked = node.connect().ask("term", build_term(TermNote(0, False, "w2")))
    assert not parse_term(asked.payload).leads
    node.board.set_lead(6, in_s(600))
    assert hello(node).command == b"err", "the lease of another term"
    node.board.set_lead(7, in_s(600))
    joined = node.join("w1")
    assert parse_term(node.connect().ask("term", build_term(TermNote(0, False, "w2"))).payload).leads
    node.board.set_lead(7, 0)
    assert joined.is_closed()
    node.logged("WARNING: [Master] [Net] The lease of this node was given up: it serves nobody as a master")


@pytest.mark.usefixtures("quick_change")
def test_the_end_of_the_lease_closes_links_and_answers_programs(start: Start) -> None:
    node = start(elected)
    node.board.set_lead(7, FOR_EVER_NS)
    joined, program, reader = node.join("w1"), node.local(), node.local()
    assert node.sync is not None
    asked = program.tell("dapi", b"{}")
    harmless = reader.tell("status")
    requests = [node.sync.expect(PeerRequest) for _ in range(2)]
    node.board.set_lead(7, in_s(-1))
    assert joined.is_closed()
    answer = program.answer_to(asked)
    assert (answer.command, code_of(answer.payload)) == (b"err", 3023)
    assert NOT_LEADING.encode() in answer.payload
    assert code_of(program.ask("sync_now").payload) == 3023
    for one in requests:
        node.sync.send(Reply(one.link, one.serial, "ok", b"late"))
    assert reader.answer_to(harmless).payload == b"late", "that needs no master"
    assert reader.ask("echo", "x").payload == b"x"
    node.logged("ERROR: [Master] [Net] The lease of this node has ended: it serves nobody as a master")
    assert hello(node).command == b"err"
    # If the lease was renewed all the same, it goes on.
    node.board.set_lead(7, in_s(600))
    node.join("w1")
    assert len(node.lines("The lease of this node has ended")) == 1


def test_what_a_program_asks_while_the_lead_changes_hands_waits_for_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "HAND_OVER_S", 1.0)
    node = start(elected)
    assert node.sync is not None
    early, other = node.local(), node.local()
    asked = early.tell("get_nodes")
    assert other.ask("echo", "x").payload == b"x", "that needs no master"
    assert node.sync.quiet(PeerRequest)
    node.board.set_lead(7, FOR_EVER_NS)
    one = node.sync.expect(PeerRequest)
    assert one.command == "get_nodes"
    node.sync.send(Reply(one.link, one.serial, "ok", b"here"))
    assert early.answer_to(asked).payload == b"here"

    # Handed over while an answer is awaited: nothing is said, so that whoever asks again finds the next processes.
    pending = early.tell("get_nodes")
    one = node.sync.expect(PeerRequest)
    node.board.set_lead(7, HANDED_OVER_NS)
    node.logged("WARNING: [Master] [Net] The lease of this node was given up")
    node.sync.send(Reply(one.link, one.serial, "ok", b"of a node that leads no more"))
    waiting = other.tell("get_nodes")
    answer = early.answer_to(pending)
    assert (answer.command, code_of(answer.payload)) == (b"err", 3023), "nobody has taken it in time"
    assert code_of(other.answer_to(waiting).payload) == 3023
    assert node.sync.quiet(PeerRequest)


@pytest.mark.usefixtures("quick_change")
@pytest.mark.parametrize("asks", ["worker", "sync"])
def test_a_process_that_was_stopped_past_its_lease_serves_nothing_when_it_wakes(start: Start, asks: str) -> None:
    """When it wakes, everything that was sent to it meanwhile is read before any timer runs."""
    node = start(elected)
    node.board.set_lead(7, in_s(600))
    joined, program = node.join("w1"), node.local()
    assert program.ask("echo", "x").payload == b"x"
    assert node.sync is not None
    link = node.sync.link(kind="worker").link
    os.kill(node.pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it is stopped")
    asked = program.tell("dapi", b"{}") if asks == "worker" else 0
    if asks == "worker":
        joined.tell("syn_i_w_m_p")
    else:
        node.sync.send(Request(link, 1, "syn_m_c"))
    node.board.set_lead(7, in_s(-1))
    os.kill(node.pid, signal.SIGCONT)
    received = []
    try:
        while True:
            received.append(joined.read())
    except OSError:
        assert received == []
    if asks == "worker":
        assert code_of(program.answer_to(asked).payload) == 3023
    else:
        node.sync.expect(Unanswered)
    node.sync.expect(LinkDown)
    assert node.sync.quiet(PeerRequest)
    assert not [one for one in node.sync.received if isinstance(one, PeerRequest)]


def test_without_an_election_there_is_no_fence(start: Start) -> None:
    """A board without a lease changes nothing."""

    def promoted(root: str) -> Any:
        update_role(root, lambda before: ROLE)
        return master_settings(root, serves_store=True).with_role(ROLE)

    node = start(promoted)
    node.join("w1")


def test_a_candidate_that_does_not_lead_says_who_does(start: Start) -> None:
    """It was never a master; its election knows which node is."""

    def candidate(root: str) -> Any:
        return worker_settings(root, "w0", (), ha=HaSettings(enabled=True, replica=True), serves_store=True)

    node = start(candidate)
    update_role(node.root, lambda before: NodeRole(7, master="127.0.0.9:99", master_name="m2"))
    os.kill(node.pid, ROLE_WRITTEN)
    refused = wait_until(
        lambda: (answer := hello(node)) and b"term 7 is 127.0.0.9:99 (m2)" in answer.payload and answer, "the master"
    )
    assert refused.command == b"err"
    assert node.connect().ask("syn_i_w_m_p").command == b"err"


def name_master(node: NetNode, address: str) -> None:
    """As this node's election does."""
    update_role(node.root, lambda before: NodeRole(7, master=address, master_name="m2"))
    os.kill(node.pid, ROLE_WRITTEN)


def test_a_worker_whose_election_names_another_master_leaves_the_one_it_has_and_dials_at_once(
    start: Start, worker: Start
) -> None:
    first, second = ScriptedMaster(), ScriptedMaster()
    node = worker("w1", first.node, connection_retry_s=600)
    talker = first.welcome()
    name_master(node, second.node)
    assert talker.is_closed()
    assert second.accept().read().command == b"term"
    first.close()
    second.close()


def test_a_master_that_the_election_names_is_dialled_again_and_again_and_the_others_now_and_then(
    start: Start, worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs a second or two for its change of role. With the pauses that grow to a second the worker came late."""
    monkeypatch.setattr(dial, "CHANGE_PAUSES", (0.25, 600.0))
    first, second = ScriptedMaster(), ScriptedMaster()
    node = worker("w1", first.node, connection_retry_s=600)
    talker = first.welcome()
    name_master(node, second.node)
    assert talker.is_closed()
    for _ in range(dial.NAMED_ALONE):
        second.accept().close()
    first.server.settimeout(0)
    with pytest.raises(BlockingIOError):
        first.accept()
    first.server.settimeout(60)
    second.accept().close()
    first.accept().close()
    for _ in range(dial.NAMED_ALONE):
        second.accept().close()
    first.close()
    second.close()


def test_a_node_that_does_not_take_the_connection_holds_up_nobody_who_knows_a_better_one(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine is down, and the system goes on trying."""
    monkeypatch.setattr(dial, "CONNECT_S", 600.0)
    second = ScriptedMaster()
    with full_port() as port:

        def patient(root: str) -> Any:
            nodes = (f"127.0.0.1:{port}",)
            return worker_settings(root, "w1", nodes, connection_retry_s=600, timeout_cluster_request_s=600.0)

        node = start(patient)
        wait_until(lambda: is_connecting_to(port), "it waits for a connection")
        name_master(node, second.node)
        assert second.accept().read().command == b"term"
    second.close()


@contextmanager
def full_port() -> Iterator[int]:
    """A port at which nobody takes connections, so that the system leaves new ones without an answer."""
    with ExitStack() as opened:
        server = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = server.getsockname()[1]
        with suppress(TimeoutError):
            while True:
                opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=0.2))
        wait_until(lambda: not is_connecting_to(port), "only the node's attempt is left")
        yield port


def is_connecting_to(port: int) -> bool:
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)
