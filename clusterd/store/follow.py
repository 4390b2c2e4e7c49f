"""Keeps the database equal to `etc/shared` (one group for each directory) and `etc/client.keys` (one agent for each
key), as wdb.md 3.19 and 8.5 ask of module D. It deletes only what it saw before: a group whose directory disappeared
while this node ran, an agent whose key disappeared. An unreadable or suddenly empty directory or file deletes nothing.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from clusterd import stacks
from clusterd.agent_keys import KEY_FILE, Key
from clusterd.key_guard import KeyRules, is_accepted
from clusterd.messages.journal import GroupEvent
from clusterd.names import is_group_name
from clusterd.settings import DEFAULT_RULES
from clusterd.store import agents, groups
from clusterd.store.empty_groups import SHARED, EmptyGroups
from clusterd.store.engine import Engine, Session
from clusterd.store.events import Tell, to_nobody
from clusterd.store.gate import WriteGate
from clusterd.store.jsontext import JsonRefused
from clusterd.store.keys import KeysRead
from clusterd.store.private import PrivateDatabases
from clusterd.store.table import KEYS, forget_seen, note_seen, seen
from hashing.links import Links
from hashing.manifest import Rules

LOOK_S = 1.0
SURE_S = 3.0
"""How long something must be gone before it is deleted: files are replaced by renaming, and authd writes two of them in
turn."""
YOUNG_S = 30.0
"""How long an agent that was just registered may lack its key: the disk may be slow."""
ORPHAN_S = 120.0
"""How long an agent that is known only from group data (wdb.md 3.2) may lack its key."""
AGAIN_S = 5.0
"""How often agents about to be deleted are checked while the file stays the same."""
FORGET_S = 60.0
"""A problem that did not recur for this long is over."""
SUDDENLY = 10
"""Losing this many keys at once is an accident, not a wish."""
MOST_TOLD = 100
"""Groups that come or go at once and are told of."""
GROUPS = "group"
_NO_KEY_YET = "0.0.0.0"


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


class Follower:
    """Checks every second. `read_keys` returns the keys in use by id; it raises OSError or ValueError if it cannot read
    them."""

    def __init__(
        self,
        engine: Engine,
        private: PrivateDatabases,
        root: str,
        *,
        on_worker: bool,
        is_first_life: bool,
        read_keys: Callable[[], KeysRead],
        is_own: Callable[[tuple[int, ...]], bool],
        foreign: Callable[[], tuple[int, ...] | None] = lambda: None,
        disowned: Callable[[], int] = lambda: 0,
        say: Callable[[str, str], None],
        guard: Callable[[], KeyRules] = KeyRules,
        rules: Callable[[], Rules] = lambda: DEFAULT_RULES,
        tell: Tell = to_nobody,
        gate: WriteGate | None = None,
    ) -> None:
        """`gate`: a master of an election follows nothing while it does not lead. `is_own`: whether this process wrote
        the file with this identity, and the database with it; `foreign`: the file of others that it read last, whose
        keys it has written again into the file, but not into the database; `disowned`: how often it has left the
        database as it may not be. `is_first_life`: the node was started (as opposed to this process being restarted),
        so nothing was seen yet. `guard`: limits how many keys a master's file may lose at once. `rules`: what is
        synchronised, for links and for empty groups. `tell`: takes groups that come and go on a master, for the
        journal."""
        self._root = root
        self._gate = gate
        self._guard = guard
        self._rules = rules
        self._empty_groups = EmptyGroups(root)
        self._in_doubt = False
        self._engine = engine
        self._private = private
        self._shared = f"{root}/{SHARED}"
        self._key_file = f"{root}/{KEY_FILE}"
        self._on_worker = on_worker
        self._is_first_life = is_first_life
        self._read_keys = read_keys
        self._is_own = is_own
        self._foreign = foreign
        self._foreign_followed: tuple[int, ...] | None = None
        self._disowned, self._disowned_followed = disowned, 0
        self._is_early = False
        """A key differs from that of its row, which is too young to be changed."""
        self._say = say
        self._tell = tell
        self._told: dict[str, float] = {}
        self._directories: set[str] | None = None
        self._gone_since: dict[str, float] = {}
        self._keys_read: tuple[int, ...] | None = None
        self._keyless_since: dict[int, float] = {}
        self._again_at = 0.0
        self._changes_since: float | None = None
        """Since when each look has found that the file changed while it was read."""

    async def run(self) -> None:
        """Runs for ever. An unexpected failure of one check is logged, and the next check follows."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        if self._gate is not None and not self._gate.holds:
            self._keys_read = None  # what authd has begun may have come to its end or not
            return
        for part in (self._follow_groups, self._follow_keys):
            try:
                await part()
            except (OSError, sqlite3.Error, ValueError) as failure:
                self._say_once("WARNING", f"{failure}; nothing is changed meanwhile.")
            except Exception:
                self._say_once("ERROR", f"Unexpected failure: {stacks.told()}")

    # ---- groups ------------------------------------------------------------------------------------------------------

    async def _follow_groups(self) -> None:
        try:
            entries = list(os.scandir(self._shared))
        except OSError as failure:
            raise OSError(f"The groups in {SHARED} cannot be read: {failure.strerror}") from failure
        known = await self._groups_before() if self._directories is None else self._directories
        found = {entry.name for entry in entries if is_group_name(entry.name) and self._is_directory(entry, known)}
        if self._directories is None:
            self._directories = known
            await self._tell_without_directory(found)
        gone = known - found
        now = time.monotonic()
        self._gone_since = {name: self._gone_since.get(name, now) for name in gone}
        if gone and not found and len(known) > 1:
            self._say_once(
                "WARNING", f"All directories of {SHARED} are gone. Their groups are kept: is a disk missing?"
            )
            gone = set()
        sure = {name for name in gone if now - self._gone_since[name] >= SURE_S}
        if found - known or sure:
            await self._engine.write(lambda session: self._change_groups(session, found - known, sure))
            self._directories = (known | found) - sure
            if not self._on_worker:
                for what, names in (("created", found - known), ("deleted", sure)):
                    for name in sorted(names)[:MOST_TOLD]:
                        self._tell(GroupEvent(what=what, group=name, agents=0))
        if not self._on_worker:
            for problem in await asyncio.to_thread(self._empty_groups.look, found, self._rules()):
                self._say_once("WARNING", f"{problem}.")

    def _is_directory(self, entry: os.DirEntry[str], known: set[str]) -> bool:
        """`known`: the groups so far. A group whose directory is a link counts as present while the link's disk is
        away."""
        if not entry.is_symlink():
            return entry.is_dir(follow_symlinks=False)
        root_fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            links, before = Links(self._root, self._rules()), entry.name in known
            return links.is_followed(root_fd, f"{SHARED}/{entry.name}", before=before)
        finally:
            os.close(root_fd)

    async def _groups_before(self) -> set[str]:
        """Groups whose directories existed before this start."""

        def work(session: Session) -> set[str]:
            if self._is_first_life:
                session.db.execute("delete from clusterd_seen where kind = ?", (GROUPS,))
            return seen(session.db, GROUPS)

        return await self._engine.write(work)

    async def _tell_without_directory(self, found: set[str]) -> None:
        without = await self._engine.read(
            lambda db: [row[0] for row in db.execute('select name from "group"') if row[0] not in found]
        )
        kept = sorted(set(without) - (self._directories or set()))
        if kept:
            listed = ", ".join(kept[:10]) + (f" and {len(kept) - 10} more" if len(kept) > 10 else "")
            self._say("WARNING", f"Groups without a directory in {SHARED} are kept: {listed}.")

    def _change_groups(self, session: Session, new: set[str], gone: set[str]) -> None:
        for name in sorted(new):
            if groups.group_id(session.db, name) is None:
                groups.insert_group(session, name)
        for name in sorted(gone):
            try:
                groups.delete_group(session, name, "synced" if self._on_worker else "syncreq")
                self._say("INFO", f"The directory of group {name} is gone, and the group with it.")
            except JsonRefused as refusal:
                self._say("WARNING", f"The directory of group {name} is gone: {refusal}")
        note_seen(session, GROUPS, new)
        forget_seen(session, GROUPS, gone)

    # ---- keys --------------------------------------------------------------------------------------------------------

    async def _follow_keys(self) -> None:
        identity = self._key_file_identity()
        if identity is None:
            return
        now = time.monotonic()
        waits = bool(self._keyless_since) or self._in_doubt or self._is_early
        foreign, disowned = self._foreign(), self._disowned()
        is_followed = foreign in (self._foreign_followed, self._keys_read) and disowned == self._disowned_followed
        if self._keys_read is not None and self._is_own(identity) and is_followed and not waits:
            self._keys_read, self._foreign_followed = identity, foreign
            return
        if identity == self._keys_read and is_followed and (not waits or now < self._again_at):
            return
        self._again_at = now + AGAIN_S
        found = await asyncio.to_thread(self._read_keys)
        is_sure = await asyncio.to_thread(is_accepted, self._root, found.content.digest)

        def work(session: Session) -> tuple[list[int], tuple[int, ...]] | None:
            # authd writes the file before it deletes a row: a row that is missing here, and whose key was read before,
            # must not be made again. What it deletes from now on it deletes after this. A worker has no authd.
            newest = self._key_file_identity()
            if newest == identity or self._on_worker:
                return self._reconcile(session, found, is_sure), identity
            if newest is None or self._changes_since is None or now < self._changes_since + AGAIN_S:
                return None
            # It changes all the time. While this thread reads it no row is deleted.
            latest = self._read_keys()
            return self._reconcile(session, latest, is_accepted(self._root, latest.content.digest)), newest

        done = await self._engine.write(work)
        if done is None:
            self._changes_since = self._changes_since or now
            return  # it is read again at the next look
        deleted, self._keys_read = done
        self._foreign_followed, self._disowned_followed, self._changes_since = foreign, disowned, None
        for agent_id in deleted:
            self._private.unlink(agent_id)

    def _key_file_identity(self) -> tuple[int, ...] | None:
        try:
            status = os.stat(self._key_file)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def _reconcile(self, session: Session, found: KeysRead, is_sure: bool) -> list[int]:
        """Runs in the writer thread. Returns who was deleted. `is_sure`: the master treats this file as complete,
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
        for agent_id, entry in entries.items():
            self._take_in(session, agent_id, entry, rows, dates.get(agent_id, 0))
        note_seen(session, KEYS, (str(agent_id) for agent_id in entries.keys() - had))
        lost = had - entries.keys()
        loss = None if self._on_worker or is_sure else found.content.loss(had, self._guard())
        self._in_doubt = loss is not None
        if loss is not None:
            self._say_once("WARNING", f"{loss.text}. The agents are kept in the database.")
            self._keyless_since = {}
            return []
        if self._on_worker and lost and not entries and len(lost) >= SUDDENLY:
            self._say_once(
                "WARNING", f"{KEY_FILE} has no key any more. Its {len(lost)} agents are kept in the database."
            )
            self._keyless_since = {}
            return []
        return self._delete_keyless(session, lost, entries, rows)

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

    def _say_once(self, level: str, text: str) -> None:
        """Logs a problem once. After a pause of FORGET_S the same problem is news again."""
        now = time.monotonic()
        is_new = now - self._told.get(text, -FORGET_S) >= FORGET_S
        self._told = {one: at for one, at in self._told.items() if now - at < FORGET_S} | {text: now}
        if is_new:
            self._say(level, text)
