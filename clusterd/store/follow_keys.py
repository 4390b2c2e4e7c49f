"""Keeps the agents of the database equal to the keys of `etc/client.keys`, as wdb.md 8.5 asks of module D. An agent is
deleted only if its key was seen before; an unreadable, missing or suddenly empty file deletes nothing."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from clusterd.agent_keys import ANY, KEY_FILE, Key
from clusterd.file_version import FileVersion, version_at
from clusterd.key_guard import KeyRules, is_accepted
from clusterd.messages.journal import RegistrationEvent
from clusterd.rundir import REMOVED_KEYS
from clusterd.store import agents
from clusterd.store.engine import Engine, Session
from clusterd.store.events import LONGEST_NAME, Tell
from clusterd.store.keys import KeyMarks, KeysRead
from clusterd.store.listed import MOST_TOLD, listed
from clusterd.store.private import PrivateDatabases
from clusterd.store.table import KEYS, forget_seen, note_seen, seen

SURE_S = 3.0
"""How long a key must be gone before its agent is deleted: authd writes two files in turn."""
YOUNG_S = 30.0
"""How long an agent that was just registered may lack its key: the disk may be slow."""
ORPHAN_S = 120.0
"""How long an agent that is known only from group data (wdb.md 3.2) may lack its key."""
AGAIN_S = 5.0
"""How often agents about to be deleted are checked while the file stays the same."""
SUDDENLY = 10
"""Losing this many keys at once is an accident, not a wish."""
_NO_KEY_YET = "0.0.0.0"
MOST_KEPT_BYTES = 16 * 1024 * 1024
"""Of the file with removed keys: some 150,000 lines. What comes then begins it anew."""


class _Row(NamedTuple):
    """What the database has of an agent. `added`: when it was registered, seconds since 1970."""

    name: str
    key: str | None
    ip: str | None
    added: int

    @property
    def is_nameless(self) -> bool:
        """Whether it is known only from group data."""
        return self.key is None and self.ip == _NO_KEY_YET

    def is_young(self, wall: float) -> bool:
        return abs(wall - self.added) < YOUNG_S


class _Reconciled(NamedTuple):
    """Agents that came with a key of the file (none where the database had never seen one), and that went without, by
    id, with their names."""

    added: dict[int, str]
    deleted: dict[int, str]
    taken: frozenset[int] = frozenset()
    """Those of the deleted that another program took out of the file; the others it has marked as removed."""
    lines: str = ""
    """Of client.keys, for those that were taken out."""


class KeyFollower:
    def __init__(
        self,
        engine: Engine,
        private: PrivateDatabases,
        root: str,
        *,
        on_worker: bool,
        read_keys: Callable[[], KeysRead],
        authd: Callable[[], KeyMarks],
        say: Callable[[str, str], None],
        say_once: Callable[[str, str], None],
        guard: Callable[[], KeyRules],
        tell: Tell,
    ) -> None:
        """See Follower. `say_once`: for what may be found at each look."""
        self._engine = engine
        self._private = private
        self._root = root
        self._key_file = f"{root}/{KEY_FILE}"
        self._on_worker = on_worker
        self._read_keys = read_keys
        self._authd = authd
        self._say, self._say_once = say, say_once
        self._guard = guard
        self._tell = tell
        self._followed: FileVersion | None = None
        """The version of client.keys whose keys the database has."""
        self._marks_followed = KeyMarks()
        """What authd had said then."""
        self._in_doubt = False
        """The file lacks too many keys to be believed."""
        self._is_early = False
        """A key differs from that of its row, which is too young to be changed."""
        self._keyless_since: dict[int, float] = {}
        self._again_at = 0.0
        self._changes_since: float | None = None
        """Since when each look has found that the file changed while it was read."""

    def look_anew(self) -> None:
        """Not known is what has become of what authd has begun: the next look reads the file, whatever was read."""
        self._followed = None

    async def look(self) -> None:
        """Raises OSError, ValueError, sqlite3.Error."""
        version = await asyncio.to_thread(version_at, self._key_file)
        if version is None:
            return
        now = time.monotonic()
        is_unsettled = bool(self._keyless_since) or self._in_doubt or self._is_early
        marks = self._authd()
        # What authd writes into the file it writes into the database, too, unless it has read it from others.
        before = self._marks_followed
        has_all_else = marks.others in (before.others, self._followed) and marks.doubts == before.doubts
        if self._followed is not None and version == marks.own and has_all_else and not is_unsettled:
            self._followed, self._marks_followed = version, marks
            return
        if version == self._followed and has_all_else and (not is_unsettled or now < self._again_at):
            return
        self._again_at = now + AGAIN_S
        found = await asyncio.to_thread(self._read_keys)
        is_sure = await asyncio.to_thread(is_accepted, self._root, found.content.digest)

        def work(session: Session) -> tuple[_Reconciled, FileVersion] | None:
            # authd writes the file before it deletes a row: a row that is missing here, and whose key was read before,
            # must not be made again. What it deletes from now on it deletes after this. A worker has no authd.
            newest = version_at(self._key_file)
            if newest == version or self._on_worker:
                return self._reconcile(session, found, is_sure), version
            if newest is None or self._changes_since is None or now < self._changes_since + AGAIN_S:
                return None
            # It changes all the time. While this thread reads it no row is deleted.
            latest = self._read_keys()
            return self._reconcile(session, latest, is_accepted(self._root, latest.content.digest)), newest

        done = await self._engine.write(work)
        if done is None:
            self._changes_since = self._changes_since or now
            return  # it is read again at the next look
        reconciled, self._followed = done
        self._marks_followed, self._changes_since = marks, None
        for agent_id in reconciled.deleted:
            self._private.unlink(agent_id)
        if not self._on_worker:
            kept = await asyncio.to_thread(self._keep, reconciled.lines) if reconciled.lines else ""
            self._tell_of_agents(reconciled, kept)

    def _keep(self, lines: str) -> str:
        """Keeps the keys that another program has removed: workers get its file at once, and then nobody has them.
        Returns where, empty if they could not be written."""
        path = f"{self._root}/{REMOVED_KEYS}"
        try:
            if os.path.exists(path) and os.stat(path).st_size + len(lines) > MOST_KEPT_BYTES:
                os.unlink(path)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with open(fd, "a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(f"# {time.strftime('%Y-%m-%d %H:%M:%S')}\n{lines}")
        except OSError:
            return ""
        return path

    def _tell_of_agents(self, reconciled: _Reconciled, kept: str) -> None:
        """Other programs write the file, too, and what authd does it tells itself. `kept`: where the keys are that
        were taken out."""
        for was_taken in (False, True):
            named = [
                f"{agent_id:03d} {name}".strip()
                for agent_id, name in reconciled.deleted.items()
                if (agent_id in reconciled.taken) == was_taken
            ]
            if named and not was_taken:
                self._say("INFO", f"Agents that {KEY_FILE} calls removed are deleted: {listed(named)}.")
            elif named:
                back = f"; if that was not meant (an editor that has saved an old copy), their lines are in {kept}"
                text = f"Another program has taken {len(named)} keys out of {KEY_FILE}, their agents are deleted: "
                self._say("WARNING", f"{text}{listed(named)}{back if kept else ''}.")
        for what, where, agents_of in (("removed", "gone from", reconciled.deleted), ("added", "in", reconciled.added)):
            for agent_id, name in list(agents_of.items())[:MOST_TOLD]:
                why = f"its key is {where} {KEY_FILE}"
                self._tell(RegistrationEvent(what=what, agent=f"{agent_id:03d}", name=name[:LONGEST_NAME], why=why))

    def _reconcile(self, session: Session, found: KeysRead, is_sure: bool) -> _Reconciled:
        """Runs in the writer thread. `is_sure`: the master treats this file as complete,
        whatever it lacks."""
        entries, dates = found.keys, found.dates
        had = {int(name) for name in seen(session.db, KEYS)}
        rows = {
            row[0]: _Row(*row[1:])
            for row in session.db.execute(
                "select id, name, internal_key, register_ip, date_add from agent where id > 0"
            )
        }
        self._is_early = False
        added = {one: entry.name for one, entry in entries.items() if one not in rows} if had else {}
        for agent_id, entry in entries.items():
            self._take_in(session, agent_id, entry, rows, dates.get(agent_id, 0))
        note_seen(session, KEYS, (str(agent_id) for agent_id in entries.keys() - had))
        lost = had - entries.keys()
        loss = None if self._on_worker or is_sure else found.content.loss(had, self._guard())
        self._in_doubt = loss is not None
        if loss is not None:
            self._say_once("WARNING", f"{loss.text}. The agents are kept in the database.")
            self._keyless_since = {}
            return _Reconciled(added, {})
        if self._on_worker and lost and not entries and len(lost) >= SUDDENLY:
            self._say_once(
                "WARNING", f"{KEY_FILE} has no key any more. Its {len(lost)} agents are kept in the database."
            )
            self._keyless_since = {}
            return _Reconciled(added, {})
        deleted = self._delete_keyless(session, lost, entries, rows)
        gone = {one: rows[one].name if one in rows else "" for one in deleted}
        taken = {one: rows[one] for one in deleted if one in rows and one not in found.content.removed}
        lines = (Key(f"{one:03d}", row.name, row.ip or ANY, row.key).line() for one, row in taken.items() if row.key)
        return _Reconciled(added, gone, frozenset(taken), "".join(lines))

    def _take_in(self, session: Session, agent_id: int, entry: Key, rows: Mapping[int, _Row], date_add: int) -> None:
        row = rows.get(agent_id)
        if row is None:
            agents.insert_agent(
                session,
                agents.NewAgentRow(
                    id=agent_id, name=entry.name, date_add=date_add, register_ip=entry.ip, internal_key=entry.key
                ),
            )
            return
        if row.name != entry.name:
            agents.update_agent_name(session, agents.AgentName(agent_id, entry.name))
        # Another program has given the id another key. A candidate that takes over writes the key of the row into its
        # file. That of an agent which was just registered is not in the file yet.
        if self._on_worker or (row.key, row.ip) == (entry.key, entry.ip):
            return
        if row.is_young(session.now()):
            self._is_early = True
        else:
            agents.update_agent_key(session, agent_id, entry.ip, entry.key)

    def _delete_keyless(
        self,
        session: Session,
        lost: set[int],
        entries: Mapping[int, Key],
        rows: Mapping[int, _Row],
    ) -> list[int]:
        now, wall = time.monotonic(), session.now()
        orphans = {
            agent_id
            for agent_id, row in rows.items()
            if self._on_worker and row.is_nameless and agent_id not in entries and abs(wall - row.added) > ORPHAN_S
        }
        waiting = {
            agent_id
            for agent_id, row in rows.items()
            if self._on_worker and row.is_nameless and agent_id not in entries
        }
        self._keyless_since = {one: self._keyless_since.get(one, now) for one in lost | waiting}
        deleted = []
        for agent_id in sorted(lost | orphans):
            is_young = agent_id in rows and rows[agent_id].is_young(wall)
            if agent_id in lost and agent_id in rows and (is_young or now - self._keyless_since[agent_id] < SURE_S):
                continue
            agents.delete_agent(session, agent_id)
            deleted.append(agent_id)
            self._keyless_since.pop(agent_id, None)
        forget_seen(session, KEYS, map(str, deleted))
        return deleted
