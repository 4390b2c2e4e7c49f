"""Keeps the groups of the database equal to the directories of `etc/shared`, as wdb.md 3.19 asks of module D.

Which agents belong to a group is in the database only: a group that is deleted by mishap loses them for good. So one is
deleted only if its directory was seen before, and not when many directories are gone at once (a disk that is not
mounted, `rm -r` in the wrong place): those groups then count as never seen, and are kept until their directories come
and go again. The API deletes groups of the database itself."""

import asyncio
import os
import time
from collections.abc import Callable

from clusterd.messages.journal import GroupEvent
from clusterd.names import is_group_name
from clusterd.store import groups
from clusterd.store.empty_groups import SHARED, EmptyGroups
from clusterd.store.engine import Engine, Session
from clusterd.store.events import Tell
from clusterd.store.jsontext import JsonRefused
from clusterd.store.listed import MOST_TOLD, listed
from clusterd.store.table import forget_seen, note_seen, seen
from hashing.links import Links
from hashing.rules import Rules

SURE_S = 3.0
"""Directories are gone when none of them has gone for this long: what is removed together is judged together."""
LONGEST_S = 60.0
"""The same where one after the other goes."""
FEW = 3
"""So many directories people remove by hand."""
GROUPS = "group"
Say = Callable[[str, str], None]


class GroupFollower:
    def __init__(
        self,
        engine: Engine,
        root: str,
        *,
        on_worker: bool,
        is_first_life: bool,
        say: Say,
        say_once: Say,
        rules: Callable[[], Rules],
        tell: Tell,
        max_delete_share: Callable[[], float],
    ) -> None:
        """See Follower. `say_once`: for what may be found at each look."""
        self._engine = engine
        self._root = root
        self._shared = f"{root}/{SHARED}"
        self._on_worker = on_worker
        self._is_first_life = is_first_life
        self._say, self._say_once = say, say_once
        self._rules = rules
        self._tell = tell
        self._max_delete_share = max_delete_share
        self._empty_groups = EmptyGroups(root)
        self._directories: set[str] | None = None
        self._has_looked = False
        """Whether a look has come to its end: what is found before was there when the process started."""
        self._gone_since: dict[str, float] = {}
        self._doubted: set[str] = set()
        """Groups that were kept without their directories: one whose directory comes back was not created."""

    async def look(self) -> None:
        """Raises OSError, sqlite3.Error."""
        is_first = self._directories is None
        known = self._directories if self._directories is not None else await self._groups_before()
        found = await asyncio.to_thread(self._found, known)
        self._directories = known
        if is_first:
            await self._tell_without_directory(found)
        lost, new = await self._lost(known, found), found - known
        if new or lost:
            created = await self._engine.write(lambda session: self._change(session, new, lost))
            self._directories = (self._directories | found) - lost
            if self._has_looked:  # the API has made the group in the database before its directory was seen
                created = sorted(new - self._doubted)
            self._doubted -= new
            if not self._on_worker:
                for what, names in (("created", created), ("deleted", sorted(lost))):
                    for name in names[:MOST_TOLD]:
                        self._tell(GroupEvent(what=what, group=name, agents=0))
        self._has_looked = True
        if not self._on_worker:
            for problem in await asyncio.to_thread(self._empty_groups.look, found, self._rules()):
                self._say_once("WARNING", f"{problem}.")

    def _found(self, known: set[str]) -> set[str]:
        """May wait for the disk."""
        try:
            entries = list(os.scandir(self._shared))
        except OSError as failure:
            raise OSError(f"The groups in {SHARED} cannot be read: {failure.strerror}") from failure
        return {entry.name for entry in entries if is_group_name(entry.name) and self._is_directory(entry, known)}

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
            self._say("WARNING", f"Groups without a directory in {SHARED} are kept: {listed(kept)}.")

    async def _lost(self, known: set[str], found: set[str]) -> set[str]:
        """The groups that are to be deleted now."""
        gone, now = known - found, time.monotonic()
        self._gone_since = {name: self._gone_since.get(name, now) for name in gone}
        if not gone:
            return gone
        if not found and len(known) > 1:
            await self._doubt(gone, f"All directories of {SHARED} are gone. Their groups are kept: is a disk missing?")
            return set()
        since = self._gone_since.values()
        if now - max(since) < SURE_S and now - min(since) < LONGEST_S:
            return set()
        share = 1.0 if self._on_worker else self._max_delete_share()  # a worker follows its master in everything
        there = await self._engine.read(lambda db: {row[0] for row in db.execute('select name from "group"')})
        count = len(gone & there)
        if count <= FEW or share >= 1 or count <= share * len(known):
            return gone
        text = (
            f"{count} of {len(known)} directories of {SHARED} are gone at once. Their groups are kept, with their "
            "agents: put the directories back. To delete such groups, make their directories again and remove them a "
            "few at a time."
        )
        await self._doubt(gone, text)
        return set()

    async def _doubt(self, gone: set[str], text: str) -> None:
        """These directories were never seen: neither this life of the process nor the next one deletes their groups."""
        await self._engine.write(lambda session: forget_seen(session, GROUPS, gone))
        self._directories = (self._directories or set()) - gone
        self._doubted |= gone
        self._gone_since = {}
        self._say("WARNING", text)

    def _change(self, session: Session, new: set[str], lost: set[str]) -> list[str]:
        """Returns the groups that did not exist before."""
        created = [name for name in sorted(new) if groups.group_id(session.db, name) is None]
        for name in created:
            groups.insert_group(session, name)
        for name in sorted(lost):
            try:
                groups.delete_group(session, name, "synced" if self._on_worker else "syncreq")
                self._say("INFO", f"The directory of group {name} is gone, and the group with it.")
            except JsonRefused as refusal:
                self._say("WARNING", f"The directory of group {name} is gone: {refusal}")
        note_seen(session, GROUPS, new)
        forget_seen(session, GROUPS, lost)
        return created
