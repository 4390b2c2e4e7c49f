"""A master of an election acts only while the lease on the board lasts."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from clusterd.leadership import Leadership
from clusterd.role import NodeRole
from clusterd.settings import ClusterBlock, Clusterd, HaSettings, Settings
from ipc.board import FOR_EVER_NS, Board

ELECTED = Settings(
    "/none",
    cluster=ClusterBlock(node_type="worker"),
    clusterd=Clusterd(ha=HaSettings(enabled=True, replica=True)),
    serves_store=True,
)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    board = Board.create(str(tmp_path / "board"))
    yield board
    board.close()


def master(term: int = 7) -> Settings:
    return ELECTED.with_role(NodeRole(term, "master", term, "127.0.0.1:1516", "one"))


def in_s(seconds: float) -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9)


def test_without_an_election_every_node_may_act_by_its_role_and_the_board_is_not_looked_at(board: Board) -> None:
    for settings in (Settings("/none"), msgspec.structs.replace(ELECTED, clusterd=Clusterd())):
        found = Leadership(board, settings)
        assert found.holds()
        assert found.left_s() is None


def test_until_there_is_a_deadline_nobody_acts_as_master(board: Board) -> None:
    for settings in (master(), ELECTED, msgspec.structs.replace(ELECTED, cluster=ClusterBlock(node_type="master"))):
        found = Leadership(board, settings)
        assert not found.holds()
        assert found.left_s() == 0.0


def test_a_master_acts_until_the_deadline_of_its_own_term(board: Board) -> None:
    found = Leadership(board, master(7))
    board.set_lead(7, in_s(60))
    assert found.holds()
    assert 0 < (found.left_s() or 0) <= 60
    board.set_lead(7, in_s(-0.001))
    assert not found.holds()
    board.set_lead(8, in_s(60))
    assert not found.holds(), "that lease is not of its term"
    assert found.left_s() == 0.0
    board.set_lead(7, 0)
    assert not found.holds()


def test_paused_the_lease_has_no_end(board: Board) -> None:
    found = Leadership(board, master(7))
    board.set_lead(7, FOR_EVER_NS)
    assert found.holds()
    assert found.left_s() is None


def test_a_worker_and_a_former_master_never_act_as_master(board: Board) -> None:
    board.set_lead(7, in_s(60))
    deposed = NodeRole(8, "master", 7, "127.0.0.2:1516", "two")
    demoted = NodeRole(7, "worker", 7, "127.0.0.2:1516", "two")
    for given in (deposed, demoted, NodeRole(7)):
        assert not Leadership(board, ELECTED.with_role(given)).holds()


def test_no_reader_sees_the_end_of_a_term_beside_another_one(board: Board) -> None:
    """A reader may run between any two steps of the writer."""
    seen, words = set[tuple[int, int]](), board._words

    class Watched:
        def __getitem__(self, place: int) -> int:
            return int(words[place])

        def __setitem__(self, place: int, value: int) -> None:
            words[place] = value
            seen.add(board.lead())

    board.set_lead(7, 100)
    board._words = Watched()  # type: ignore[assignment]
    try:
        board.set_lead(8, 200)
    finally:
        board._words = words
    assert seen <= {(7, 0), (8, 0), (8, 200)}
