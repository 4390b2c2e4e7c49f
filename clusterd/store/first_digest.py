"""The first digest over all units of a large database: 100,000 agents take seconds to read. Its owner has one thread,
and answers wait for that. So this has a thread of its own, and a connection that stays at one moment of the database;
what changes after that moment comes on top of it."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable

from clusterd.store.units import UnitDigest

AT_ONCE = 2000
"""So many agents are read at once: it takes some ten milliseconds."""


def is_small(db: sqlite3.Connection) -> bool:
    """Whether the digest is read at once. Raises sqlite3.Error."""
    (count,) = db.execute("select count(*) from (select 1 from agent limit ?)", (AT_ONCE + 1,)).fetchone()
    return int(count) <= AT_ONCE


class FirstDigest:
    """`at`: what `position` said of the moment of the digest. Call `close` before the database's file is closed."""

    def __init__(
        self,
        db: sqlite3.Connection,
        is_given_up: Callable[[], bool],
        position: Callable[[sqlite3.Connection], int] = lambda db: 0,
        is_ready: Callable[[], object] = lambda: None,
    ) -> None:
        """`db`: a connection of its own. `is_given_up`: also for the digest's owner. `is_ready`: called in the thread
        when it has ended. Raises sqlite3.Error."""
        self._db = db
        self._is_given_up = is_given_up
        self._is_ready = is_ready
        self._is_closed = self.has_ended = False
        self._digest = UnitDigest(is_given_up)
        self._failure: Exception | None = None
        self._noted: dict[tuple[int, int], int] = {}
        try:
            db.execute("begin")
            db.execute("select 1 from agent limit 1").fetchone()  # the moment is that of the first reading
            self.at = position(db)
        except BaseException:
            db.close()
            raise
        self._thread = threading.Thread(target=self._read, name="store-digest")
        self._thread.start()

    def _read(self) -> None:
        try:
            with contextlib.closing(self._db):
                digest = UnitDigest(lambda: self._is_closed or self._is_given_up())
                digest.read_all(self._db)
                self._digest = digest
        except Exception as failure:  # whatever it is: its owner has to hear of it
            self._failure = failure
        finally:
            self.has_ended = True
        self._is_ready()

    def note(self, key: tuple[int, int], digest: int) -> None:
        """What `digest_of` says of a unit that was written after the moment of the digest."""
        self._noted[key] = digest

    def take(self) -> UnitDigest:
        """When it has ended: returns the digest with what was noted, for its owner to go on with. Raises what the
        reading raised."""
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        for key, one in self._noted.items():
            self._digest.put(key, one)
        return self._digest

    def close(self) -> None:
        """Gives up; returns when the connection is closed."""
        self._is_closed = True
        self._thread.join()
