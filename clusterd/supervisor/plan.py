"""The processes of a node, listed in the order in which they stop; they start in the reverse order.

A new kind of process is a function here and an entry in `plan`.
"""

import os
from collections.abc import Callable

import clusterd.api.process
import clusterd.election.process
import clusterd.monitor.process
import clusterd.net.process
import clusterd.pool.process
import clusterd.store.process
import clusterd.sync.process
from clusterd.logs import Log
from clusterd.rundir import STORE_SOCKETS, local_socket
from clusterd.settings import Settings
from clusterd.supervisor.child import ChildSpec
from ipc.arena import Arena
from ipc.board import Board
from ipc.job_queue import BACKGROUND_SLOT

MOST_POOL_PROCESSES = 32
ASKERS_STAGE = 2
"""Later stages are processes that only other processes of the node ask; those have ended by then."""
ELECTION_STOP_S = 40.0
"""How long the election may take to stop. It gives its lease back at once; `on_demote` may take 30 s."""
LEAVE_S = 14.0
"""How long a stop waits until the election has handed the lead over; a little longer than the election tries."""
SLABS_MASTER = (16, 48)
SLABS_WORKER = (8, 4)
"""Slabs of net and of sync. A worker sends one package at a time with a few chunks under way. A master sends the same
sealed bodies to many workers, some in the middle of a package and some at its end, and receives from many. Slabs cost
memory only while in use and for five seconds more."""


class NodeResources:
    """What children inherit. `settings`: the current ones; a reload replaces them for children forked later.
    `log_format` and the like never change while the node runs (clusterd/reload.py). `framework_fd`: sync's descriptor
    for requesting framework processes, None without a framework. `least_pool`: as many pool processes there were
    before the role changed."""

    def __init__(self, settings: Settings, arena: Arena, board: Board, log: Log) -> None:
        self.settings = settings
        self.arena = arena
        self.board = board
        self.log = log
        self.framework_fd: int | None = None
        self.least_pool = 0


def plan(node: NodeResources) -> list[ChildSpec]:
    """The children in the order in which they stop: first the api, so that its callers get their answers; then net,
    which accepts nothing more; sync ends its open work; the pool; the store, when nobody asks it any more; last the
    monitor, which hears of the end of all others."""
    size = max(node.least_pool, pool_size(node.settings, len(os.sched_getaffinity(0))))
    children: list[ChildSpec] = []
    if node.settings.clusterd.api.enabled:
        children.append(ChildSpec("api", _run(clusterd.api.process.run, node), stage=0, stop_s=5.0, any_role=True))
    children += [
        ChildSpec("net", _net(node), stage=1, stop_s=5.0, prompt=True),
        ChildSpec("sync", _sync(node, size), stage=2, stop_s=5.0),
        *(
            ChildSpec(f"pool-{slot}", _pool(node, slot), stage=3, stop_s=3.0)
            for slot in (*range(1, size + 1), BACKGROUND_SLOT)
        ),
    ]
    if node.settings.serves_store:
        children.append(ChildSpec("store", _run(clusterd.store.process.run, node), stage=4, stop_s=10.0))
    if node.settings.clusterd.has_monitor:
        children.append(ChildSpec("monitor", _run(clusterd.monitor.process.run, node), stage=5, stop_s=5.0))
    return children


def lasting_plan(node: NodeResources) -> list[ChildSpec]:
    """The children that a change of role does not end."""
    if not node.settings.has_election:
        return []
    return [ChildSpec("election", _election(node), stage=0, stop_s=ELECTION_STOP_S)]


def served_by_children(settings: Settings, child: str = "") -> list[str]:
    """Paths of the unix sockets on which programs of the machine ask a node; of one child, or of all."""
    found = [local_socket(settings.root)] if child in ("", "net") else []
    if child in ("", "store") and settings.serves_store:
        found += [f"{settings.root}/{name}" for name in STORE_SOCKETS]
    return found


def pool_size(settings: Settings, cores: int) -> int:
    """Number of pool processes for work that somebody waits for: as configured, else the number of cores, at least 2 on
    a master and 1 on a worker. One more does background work."""
    if settings.pool_size:
        return min(settings.pool_size, MOST_POOL_PROCESSES)
    return min(max(cores, 2 if settings.is_master else 1), MOST_POOL_PROCESSES)


def make_arena(settings: Settings) -> Arena:
    """Creates the node's shared memory; none of it is touched yet."""
    return Arena(*(SLABS_MASTER if settings.is_master else SLABS_WORKER))


def _election(node: NodeResources) -> Callable[[], int]:
    def main() -> int:
        node.arena.close()  # it would keep the memory of an arena that a change of role replaces
        return clusterd.election.process.run(node.settings, node.board, node.log)

    return main


def _net(node: NodeResources) -> Callable[[], int]:
    return lambda: clusterd.net.process.run(node.settings, node.arena, node.board, node.log)


def _sync(node: NodeResources, size: int) -> Callable[[], int]:
    return lambda: clusterd.sync.process.run(
        node.settings, node.arena, node.board, node.log, size, framework_fd=node.framework_fd
    )


def _pool(node: NodeResources, slot: int) -> Callable[[], int]:
    return lambda: clusterd.pool.process.run(slot, node.settings, node.arena, node.board, node.log)


def _run(run: Callable[[Settings, Board, Log], int], node: NodeResources) -> Callable[[], int]:
    """For a child that needs no shared memory."""
    return lambda: run(node.settings, node.board, node.log)
