"""How many connections and how many lines are allowed: numbers only."""

import msgspec

from clusterd.listening.admission import Bounds, Gatekeeper
from clusterd.listening.strangers import StrangerLines
from clusterd.net.keepalive import KeepaliveSender, silent_too_long
from clusterd.net.limits import LineBudget


def gatekeeper(**limits: int) -> Gatekeeper:
    """Keywords: fields of Bounds."""
    return Gatekeeper(msgspec.structs.replace(Bounds(4096, 1024, 2048, 512), **limits))


def test_the_oldest_idle_connection_of_an_address_makes_room_for_a_new_one() -> None:
    gate = gatekeeper(per_address=2)
    assert gate.admit(1, "a").evicted is None
    gate.admit(2, "a")
    assert gate.admit(3, "a").evicted == 1
    assert gate.admit(4, "b").evicted is None
    assert gate.connections == 3


def test_connections_that_said_hello_are_never_closed_for_others() -> None:
    gate = gatekeeper(per_address=2)
    for key in (1, 2):
        gate.admit(key, "a")
        gate.name(key)
    refused = gate.admit(3, "a")
    assert refused.refused
    assert refused.evicted is None
    assert gate.connections == 2


def test_a_connection_that_was_answered_makes_room_again_after_those_that_wait_for_longer() -> None:
    gate = gatekeeper(per_address=3)
    for key in (1, 2, 3):
        assert gate.admit(key, "10.0.0.1").refused == ""
        gate.name(key)
    assert gate.admit(4, "10.0.0.1").refused
    gate.rest(2)
    gate.rest(1)
    gate.rest(1)
    assert (gate.waiting, gate.connections) == (2, 3)
    assert gate.admit(5, "10.0.0.1").evicted == 2
    gate.name(1)
    assert gate.admit(6, "10.0.0.1").evicted == 5
    for key in (1, 2, 3, 6):
        gate.rest(key)
        gate.release(key)
    assert (gate.waiting, gate.connections) == (0, 0)


def test_many_connections_from_one_address_make_room_for_one_from_another() -> None:
    gate = gatekeeper(waiting=3)
    gate.admit(1, "nice")
    gate.admit(2, "crowd")
    gate.admit(3, "crowd")
    assert gate.admit(4, "new").evicted == 2
    assert gate.waiting == 3


def test_all_places_taken_by_nodes_refuse_the_next_connection() -> None:
    gate = gatekeeper(connections=2)
    for key in (1, 2):
        gate.admit(key, f"host{key}")
        gate.name(key)
    assert gate.admit(3, "other").refused


def test_counts_return_to_zero() -> None:
    gate = gatekeeper()
    for key in range(100):
        gate.admit(key, f"host{key % 7}")
        if key % 3 == 0:
            gate.name(key)
            gate.name(key)
    for key in range(100):
        gate.release(key)
        gate.release(key)
    assert (gate.connections, gate.waiting) == (0, 0)


def test_a_network_has_so_many_connections_whatever_its_addresses() -> None:
    gate = gatekeeper(per_network=3)
    for key in range(3):
        gate.admit(key, f"192.0.2.{key}")
        gate.name(key)
    assert "from this network" in gate.admit(3, "192.0.2.77").refused
    assert not gate.admit(4, "192.0.3.1").refused
    for key in range(5, 8):
        assert not gate.admit(key, f"2001:db8:0:1::{key}").refused
    assert gate.admit(8, "2001:db8:0:1:ffff::").evicted == 5
    assert gate.admit(9, "2001:db8:0:2::1").evicted is None


def test_many_connections_from_one_network_make_room_for_one_from_another() -> None:
    gate = gatekeeper(waiting=4)
    gate.admit(1, "198.51.100.1")
    for key in range(2, 5):
        gate.admit(key, f"192.0.2.{key}")
    assert gate.admit(5, "203.0.113.1").evicted == 2


def test_lines_of_strangers_are_bounded_in_all_and_one_line_says_how_many_were_left_out() -> None:
    said: list[str] = []
    lines = StrangerLines(10.0, 5, lambda level, text: said.append(text))
    written = sum(lines.admit(f"address {number}", 0.0) is not None for number in range(1000))
    assert written == 5
    lines.tick(9.0)
    assert not said
    lines.tick(10.0)
    lines.tick(10.5)
    assert said == ["995 lines like these were left out: more than 5 in 10 s."]
    assert lines.admit("another", 11.0) == 0


def test_lines_of_one_stranger_are_one_a_period() -> None:
    lines = StrangerLines(10.0, 5, lambda level, text: None)
    assert [lines.admit("a", now) for now in (0.0, 1.0, 2.0, 10.0)] == [0, None, None, 2]


def test_an_address_has_so_many_lines_a_period() -> None:
    budget = LineBudget(2, 10.0)
    assert [budget.allows("a", now) for now in (0, 1, 2, 9.9, 10, 11, 12)] == [
        True,
        True,
        False,
        False,
        True,
        True,
        False,
    ]
    assert budget.allows("b", 2)


def test_the_budget_remembers_a_bounded_number_of_addresses() -> None:
    budget = LineBudget(1, 10.0, keys=10)
    for number in range(1000):
        assert budget.allows(number, 0)
    assert len(budget._spent) == 10


def test_a_worker_gives_up_at_80_and_160_seconds_of_a_silent_master() -> None:
    """wire.md 1.6: keepalive every 60 s, 20 s of waiting each."""
    keepalive = KeepaliveSender(60, 2, now=0)
    assert keepalive.next_at == 60
    assert not keepalive.failed(80)
    assert keepalive.next_at == 140
    assert keepalive.failed(160)


def test_an_answer_forgives_failures_before_it() -> None:
    keepalive = KeepaliveSender(60, 2, now=0)
    keepalive.failed(80)
    keepalive.succeeded(140)
    assert not keepalive.failed(220)


def test_other_intervals_hold_from_the_next_round_on() -> None:
    keepalive = KeepaliveSender(60, 2, now=0)
    keepalive.failed(80)
    keepalive.set_intervals(10, 3)
    assert keepalive.next_at == 140
    assert not keepalive.failed(160)
    assert keepalive.next_at == 170
    assert keepalive.failed(180)


class Heard:
    def __init__(self, heard_at: float) -> None:
        self.heard_at = heard_at


def test_a_link_is_silent_when_it_is_older_than_allowed() -> None:
    links = [Heard(0), Heard(1), Heard(121)]
    assert silent_too_long(links, 121, 120) == links[:1]
