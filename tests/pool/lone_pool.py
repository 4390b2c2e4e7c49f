"""One pool process without a supervisor: `python -m tests.pool.lone_pool ROOT`. Lines on stdin set sync's row of the
board: `sync N` is the birth of sync's N-th life, `gone` its death. Prints the pool's pid, ends the pool when stdin
ends, and exits with the pool's exit code."""

import os
import signal
import sys

from clusterd.logs import Log
from clusterd.pool.process import run
from clusterd.rundir import board_path
from clusterd.settings import ClusterBlock, Secret, Settings
from clusterd.supervisor.child import SIGNALS
from ipc.arena import Arena
from ipc.board import Board
from tests.fakes.forks import die_with_parent


def main(root: str) -> int:
    settings = Settings(root, cluster=ClusterBlock(key=Secret(b"k" * 32)))
    board, arena = Board.create(board_path(root)), Arena(1, 1, 65536)
    log = Log(f"{root}/logs/cluster.log")
    sync, row = board.add_row("sync"), board.add_row("pool-1")
    sync.begin(0, 1)
    sync.set_ready()
    row.begin(0, 7)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = os.fork()
    if pid == 0:
        die_with_parent()
        os._exit(run(1, settings, arena, board, log))
    print(pid, flush=True)
    for line in sys.stdin:
        if line.startswith("sync"):
            sync.begin(0, int(line.split()[1]))
            sync.set_ready()
        else:
            sync.set_down()
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
