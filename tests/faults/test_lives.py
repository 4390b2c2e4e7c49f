"""Processes of one node that die together find each other again."""

import signal
from collections.abc import Iterator

import pytest

from clusterd.rundir import board_path
from clusterd.status.status import StatusReader
from ipc.board import Board, RowSnapshot
from tests.conftest import MakeRig
from tests.supervisor.helpers import until
from tools.rig.faults import signal_process

pytestmark = pytest.mark.slow
TIMES = 4


@pytest.fixture
def board(make_rig: MakeRig) -> Iterator[tuple[str, Board]]:
    """Processes of a master."""
    rig = make_rig(0, overrides={"clusterd": {"monitor": {"enabled": False}}})
    rig.start()
    found = Board.open(board_path(str(rig.master.root)))
    yield str(rig.master.root), found
    found.close()


def test_net_that_says_its_first_hello_to_a_dying_sync_serves_the_next_one(board: tuple[str, Board]) -> None:
    """sync is stopped, so that the hello of a new net waits in its socket, and then killed. Which of the two new lives
    hears the other first is a matter of milliseconds: once in three tries it was the wrong one."""
    root, rows = board

    def after(name: str, incarnation: int) -> RowSnapshot:
        def look() -> RowSnapshot | None:
            row = rows.row(name).snapshot()
            return row if row.incarnation > incarnation and row.pid > 1 and row.state == "ready" else None

        found = until(look, f"{name} is ready")
        assert found is not None
        return found

    def looks_around(net: RowSnapshot) -> None:
        until(lambda: rows.row("net").snapshot().heartbeat_ns > net.heartbeat_ns, "net has looked around")

    for _ in range(TIMES):
        sync, net = after("sync", 0), after("net", 0)
        signal_process(sync.pid, signal.SIGSTOP)
        signal_process(net.pid, signal.SIGKILL)
        looks_around(after("net", net.incarnation))
        signal_process(sync.pid, signal.SIGKILL)
        after("sync", sync.incarnation)
        until(lambda: StatusReader(root).read_sync()["node"] is not None, "sync is asked, and answers")
