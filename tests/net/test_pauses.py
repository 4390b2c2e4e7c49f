"""A node that was stopped, or whose machine was suspended, does not blame its peers for the time."""

import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from clusterd.messages.links import LinkDown, LinkUp, PeerRequest, Request, Unanswered
from clusterd.net.bridge import Bridge
from clusterd.net.keepalive import silent_too_long
from clusterd.net.sync_queue import FULL_MESSAGES
from tests.fakes.clock import FakeClock
from tests.net.harness import NetNode

Master = Callable[..., NetNode]
ALLOWED_S = 3.0


def pause(node: NetNode, meanwhile: Callable[[], object]) -> None:
    """Stops net for longer than it allows peers to be silent. `meanwhile`: what peers do; net cannot read it."""
    os.kill(node.pid, signal.SIGSTOP)
    ends_at = time.monotonic() + ALLOWED_S + 0.5
    try:
        meanwhile()
        while time.monotonic() < ends_at:
            time.sleep(0.05)
    finally:
        os.kill(node.pid, signal.SIGCONT)


@pytest.mark.slow
def test_worker_whose_keepalives_wait_in_the_socket_of_a_master_that_was_stopped_stays(master: Master) -> None:
    node = master(check_worker_lastkeepalive_s=0.1, max_allowed_time_without_keepalive_s=ALLOWED_S)
    worker = node.join("w1")
    assert worker.ask("echo-c", "x").payload == b"x"
    counters: list[int] = []
    pause(node, lambda: counters.append(worker.tell("echo-c", "x")))
    assert worker.answer_to(counters[0]).payload == b"x"
    assert worker.ask("echo", "x").payload == b"x"
    assert not node.lines("No keep alives")


@pytest.mark.slow
def test_response_that_came_while_the_node_was_stopped_is_taken(master: Master) -> None:
    node = master()
    worker = node.join("w1")
    assert node.sync is not None
    link = node.sync.link("w1").link
    node.sync.send(Request(link, 7, "syn_m_c", b"", timeout_s=ALLOWED_S))
    asked = worker.read()
    pause(node, lambda: worker.respond(asked, "ok", b"here"))
    worker.tell("syn_i_w_m_p")
    node.sync.expect(PeerRequest)
    assert not [message for message in node.sync.received if isinstance(message, Unanswered)]


def test_peer_that_falls_silent_after_a_pause_is_silent_from_its_last_keepalive_on() -> None:
    """Not from that and the length of all pauses."""
    clock, link = FakeClock(), SimpleNamespace(kind="local", number=1, heard_at=0.0, keepalive_at=0.0)
    bridge = SimpleNamespace(_context=SimpleNamespace(clock=clock), _links={})
    Bridge.keepalive(cast(Any, bridge), cast(Any, link))
    assert not silent_too_long(cast(Any, [link]), clock.awake(), ALLOWED_S)
    clock.move(ALLOWED_S + 1)
    assert silent_too_long(cast(Any, [link]), clock.awake(), ALLOWED_S)


class Peer(SimpleNamespace):
    """Of a link what the bridge looks at. `held`: why it is not read."""

    def __init__(self, number: int, kind: str) -> None:
        super().__init__(number=number, kind=kind, name="w", address="", connected_at=0.0, keepalive_at=0.0, uid=0)
        self.pid, self.up_since, self.given_up_s, self.serials = 0, 0.0, 0.0, set[int]()
        self.held: list[int] = []
        self.hold = self.held.append

    __hash__ = object.__hash__


@pytest.mark.parametrize("kind", ["worker", "local"])
def test_peers_that_come_and_go_while_sync_hangs_do_not_fill_the_memory(kind: str) -> None:
    context = SimpleNamespace(begin_life=lambda number: 0, clock=SimpleNamespace(awake=lambda: 0.0, wall=lambda: 0.0))
    bridge = Bridge(cast(Any, context), cast(Any, None), cast(Any, None), 1)
    waiting = bridge._to_sync._messages

    def join(number: int) -> Any:
        link = Peer(number, kind)
        bridge.link_up(cast(Any, link))
        return link

    known, asks = join(1), join(2)
    waiting.popleft()  # sync has read of the first one
    bridge.tell(PeerRequest(2, 1, "sendsync"))
    while not bridge._to_sync.is_full:
        bridge.tell(Unanswered(1, "closed"))
    for number in range(3, 5000):
        link = join(number)
        assert bool(link.held) == (kind != "local"), "what a worker asks would wait, too"
        bridge.keepalive(link)
        bridge.link_down(link, "")
        assert len(waiting) <= 2 * FULL_MESSAGES + 5
    for link in (known, asks):
        bridge.link_down(link, "")
    assert list(waiting)[-2:] == [LinkDown(1, ""), LinkDown(2, "")]
    assert list(waiting)[:2] == [LinkUp(asks.info), PeerRequest(2, 1, "sendsync")], "the request is carried out"
