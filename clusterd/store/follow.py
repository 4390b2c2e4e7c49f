"""Keeps the database equal to `etc/shared` (one group for each directory) and `etc/client.keys` (one agent for each
key), as wdb.md 3.19 and 8.5 ask of module D. It deletes only what it saw before: a group whose directory disappeared
while this node ran, an agent whose key disappeared. An unreadable or suddenly empty directory or file deletes nothing.
"""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from clusterd import stacks
from clusterd.agent_keys import KEY_FILE, Key
from clusterd.file_version import FileVersion, version_at
from clusterd.key_guard import KeyRules, is_accepted
from clusterd.messages.journal import GroupEvent, RegistrationEvent
from clusterd.names import is_group_name
from clusterd.settings import DEFAULT_RULES
from clusterd.store import agents, groups
from clusterd.store.empty_groups import SHARED, EmptyGroups
from clusterd.store.engine import Engine, Session
from clusterd.store.events import LONGEST_NAME, Tell, to_nobody
from clusterd.store.gate import WriteGate
from clusterd.store.jsontext import JsonRefused
from clusterd.store.keys import KeyMarks, KeysRead
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
"""Groups, or agents, that come or go at once and are told of in the journal."""
MOST_NAMED = 10
"""The same in a line of the log."""
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


class _Reconciled(NamedTuple):
    """Agents that came with a key of the file (none where the database had never seen one), and that went without, by
    id, with their names."""

    added: dict[int, str]
    deleted: dict[int, str]


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
        authd: Callable[[], KeyMarks] = KeyMarks,
        say: Callable[[str, str], None],
        guard: Callable[[], KeyRules] = KeyRules,
        rules: Callable[[], Rules] = lambda: DEFAULT_RULES,
        tell: Tell = to_nobody,
        gate: WriteGate | None = None,
    ) -> None:
        """`gate`: a master of an election follows nothing while it does not lead. `authd`: what authd of this process
        says of client.keys. `is_first_life`: the node was started (as opposed to this process being restarted), so
        nothing was seen yet. `guard`: limits how many keys a master's file may lose at once. `rules`: what is
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
        self._authd = authd
        self._followed: FileVersion | None = None
        """The version of client.keys whose keys the database has."""
        self._marks_followed = KeyMarks()
        """What authd had said then."""
        self._is_early = False
        """A key differs from that of its row, which is too young to be changed."""
        self._say = say
        self._tell = tell
        self._told: dict[str, float] = {}
        self._directories: set[str] | None = None
        self._gone_since: dict[str, float] = {}
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
            self._followed = None  # what authd has begun may have come to its end or not
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
            self._say("WARNING", f"Groups without a directory in {SHARED} are kept: {_listed(kept)}.")

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
        version = version_at(self._key_file)
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
            self._tell_of_agents(reconciled)

    def _tell_of_agents(self, reconciled: _Reconciled) -> None:
        """Other programs write the file, too, and what authd does it tells itself."""
        if reconciled.deleted:
            named = [f"{agent_id:03d} {name}".strip() for agent_id, name in reconciled.deleted.items()]
            self._say("INFO", f"Agents without a key in {KEY_FILE} are deleted: {_listed(named)}.")
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
        return _Reconciled(added, {one: rows[one].name if one in rows else "" for one in deleted})

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


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
