"""Whether this node leads, for load balancers: the answer of `GET /primary` (docs/ha.md). Judged by the board, the role
on disk and the system alone. It asks no process, so the answer comes at once and is never out of date."""

import time
from collections.abc import Callable

from clusterd import vitals
from clusterd.leadership import NOT_LEADING
from clusterd.monitor.live import check_processes
from clusterd.role import RoleDamaged, after_deposing, deposed_text, read_role, standing
from clusterd.settings import Settings
from clusterd.vitals import Sample
from ipc.board import Board

NEEDED = ("net", "sync")
"""Without these processes a master serves nobody."""


def primary_problem(settings: Settings, board: Board, read: Callable[[int], Sample | None] = vitals.read) -> str:
    """Returns why this node is not the leading master; empty if it is. `read`: what the system knows of a process."""
    try:
        given = after_deposing(read_role(settings.root), board.deposed_term)
    except RoleDamaged as failure:
        return str(failure)
    now = standing(given, settings.configured.node_type)
    if given is not None and now.is_deposed:
        return deposed_text(given)
    if now.role != "master":
        where = "" if given is None or not given.master else f", its master is {given.master_name} at {given.master}"
        return f"this node is a worker{where}"
    if given is not None and given.change is not None:
        return "the role of this node changes at this moment"
    if settings.has_election:
        term, until_ns = board.lead()
        if given is None or term != given.led or time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= until_ns:
            return NOT_LEADING
    rows = [row for row in board.rows() if row.name in NEEDED]
    for row, check in zip(rows, check_processes(rows, time.monotonic(), read), strict=True):
        if check.problem or row.state != "ready":
            return f"{row.name}: {check.problem or f'it is {row.state}'}"
    return ""
