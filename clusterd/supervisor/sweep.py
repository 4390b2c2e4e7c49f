"""Removes what an earlier life of the node left behind, before the children are forked, and what this life leaves at
its end.

Only the process that holds the pid file calls it. Never follows a link.
"""

import contextlib
import os
import shutil
import stat
from pathlib import Path

from clusterd.rundir import STATE, local_socket, run_dir
from clusterd.supervisor.run_files import kept_dir

CLUSTER_DIR = "queue/cluster"
OWN = ".clusterd"
SPOOL = f"{CLUSTER_DIR}/{OWN}/spool"


def sweep_before_start(root: str) -> None:
    """Prepares a new run directory (0700), no local socket, an empty spool, and a state directory that holds only
    files. As in stock, nothing else in queue/cluster is touched (wire.md 1.8). Raises OSError naming what cannot be
    removed or made."""
    remove_run_files(root)
    cluster = Path(root) / CLUSTER_DIR
    for path in cluster.iterdir():
        if path.name != OWN:
            _remove(path)
    for relative in (f"{CLUSTER_DIR}/{OWN}", SPOOL, STATE):
        path = Path(root) / relative
        if not stat.S_ISDIR(_mode(path)):
            _remove(path)
        path.mkdir(mode=0o770, parents=True, exist_ok=True)
        path.chmod(0o770)
    empty_spool(root)
    for path in (Path(root) / STATE).iterdir():
        # A directory could not be overwritten by the file that needs its name.
        if not stat.S_ISREG(_mode(path)):
            _remove(path)
    os.mkdir(run_dir(root), 0o700)


def remove_run_files(root: str) -> None:
    """Removes the run directory (sockets between our processes, board) and the local socket."""
    _remove(Path(run_dir(root)))
    _remove(Path(kept_dir(root)))
    _remove(Path(local_socket(root)))


def empty_spool(root: str) -> None:
    """Removes received packages, parts and strings, which are useless after their process has ended."""
    with contextlib.suppress(FileNotFoundError):
        for path in (Path(root) / SPOOL).iterdir():
            _remove(path)


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def _remove(path: Path) -> None:
    """Removes a file, link, socket or whole directory, if it exists."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
