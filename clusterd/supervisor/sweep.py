"""What an earlier life of the node left behind, removed before the children are forked; and what this one leaves at its end.

Only called by the one process that holds the pid file. Never follows a link.
"""

import contextlib
import os
import shutil
import stat
from pathlib import Path

from clusterd.rundir import STATE, local_socket, run_dir

CLUSTER_DIR = "queue/cluster"
OWN = ".clusterd"
SPOOL = f"{CLUSTER_DIR}/{OWN}/spool"


def sweep_before_start(root: str) -> None:
    """A fresh run directory (0700), no local socket, an empty spool, an existing state directory that holds nothing but files;
    as stock does, nothing else in queue/cluster (wire.md 1.8). Raises OSError naming what cannot be removed or made."""
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
        # Over a directory nothing can be written, whatever its name is wanted for.
        if not stat.S_ISREG(_mode(path)):
            _remove(path)
    os.mkdir(run_dir(root), 0o700)


def remove_run_files(root: str) -> None:
    """The run directory (sockets between our processes, board) and the local socket."""
    _remove(Path(run_dir(root)))
    _remove(Path(local_socket(root)))


def empty_spool(root: str) -> None:
    """Received packages, parts, strings: of no use to anybody once their process is gone."""
    with contextlib.suppress(FileNotFoundError):
        for path in (Path(root) / SPOOL).iterdir():
            _remove(path)


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return 0


def _remove(path: Path) -> None:
    """A file, link, socket or whole directory, if it is there."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
