"""Whether all files of the master are known to be here, so that this worker may lead (docs/ha.md). That is also on the
disk: after a power failure of all nodes there is no master to ask.

A file is old or new at every moment, and on the disk before it has its name. So files that were complete once stay so
while a later package is applied, and whenever that is broken off.
"""

import asyncio
import contextlib
import os
from pathlib import Path

from clusterd.role import OWN_DIR
from clusterd.sync.links.context import Context
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.tasks import Tasks
from hashing.atomic import OPEN_DIRECTORY, FileOps, sync_path
from hashing.write import write_atomic

NAME = f"{OWN_DIR}/files-complete"
"""The mark. Its content is the name of the cluster: files of another one are not the master's."""
MODE = 0o600


class CompleteFiles:
    """Owner of the mark of a candidate. `are_known`: every file of the master is here, as it was at some moment since
    this node became a worker, or as it is now."""

    def __init__(self, context: Context, log: TagLog) -> None:
        """Blocking, one small file."""
        settings = context.settings
        self._root, self._cluster, self._rules = settings.root, settings.cluster.name.encode(), settings.rules
        self._log = log
        self._tasks = Tasks(log.error)
        self._is_writing = False
        self._is_kept = settings.has_replica
        if not self._is_kept:
            forget(context, log)
        self.are_known = self._on_disk = self._is_kept and self._read()

    def _read(self) -> bool:
        with contextlib.suppress(OSError):
            return Path(self._root, NAME).read_bytes() == self._cluster
        return False

    def note(self, result: str) -> None:
        """Takes the result of a check or a package (LastSync)."""
        if result not in ("equal", "synced", "partly"):
            return  # broken off
        self.are_known = result != "partly"
        if self._is_kept and self.are_known != self._on_disk and not self._is_writing:
            self._is_writing = True
            self._tasks.spawn(self._keep())

    async def _keep(self) -> None:
        try:
            while self.are_known != self._on_disk:
                wanted = self.are_known
                await asyncio.to_thread(self._write if wanted else _remove, self._root)
                self._on_disk = wanted
        except OSError as failure:  # the next check tries again
            self._log.warning(f"{NAME} cannot be {'written' if wanted else 'removed'}: {failure}")
        finally:
            self._is_writing = False

    def _write(self, root: str) -> None:
        """What the mark says is on the disk first, also files that no package has brought."""
        devices: dict[int, str] = {}
        for path in filter(os.path.isdir, (os.path.join(root, item.key) for item in self._rules.items)):
            devices.setdefault(os.stat(path).st_dev, path)
        for path in devices.values():
            fd = os.open(path, OPEN_DIRECTORY)
            try:
                FileOps().syncfs(fd)
            finally:
                os.close(fd)
        write_atomic(FileOps(), f"{root}/{NAME}", self._cluster, MODE)


def _remove(root: str) -> None:
    path = Path(root, NAME)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync_path(path.parent)


def forget(context: Context, log: TagLog) -> None:
    """Removes the mark: the files of a master are its own. Blocking."""
    try:
        _remove(context.settings.root)
    except OSError as failure:
        log.error(f"{NAME} cannot be removed: {failure}")
