"""Keeps the database equal to what other programs write, as module D of wdb.md does: groups to the directories of
`etc/shared` (follow_groups.py), agents to the keys of `etc/client.keys` (follow_keys.py)."""

import asyncio
import sqlite3
import time
from collections.abc import Callable

from clusterd import stacks
from clusterd.key_guard import KeyRules
from clusterd.settings import DEFAULT_RULES
from clusterd.store.engine import Engine
from clusterd.store.events import Tell, to_nobody
from clusterd.store.follow_groups import GroupFollower
from clusterd.store.follow_keys import KeyFollower
from clusterd.store.gate import WriteGate
from clusterd.store.keys import KeyMarks, KeysRead
from clusterd.store.private import PrivateDatabases
from hashing.rules import Rules

LOOK_S = 1.0
FORGET_S = 60.0
"""A problem that did not recur for this long is over."""


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
        max_delete_share: Callable[[], float] = lambda: 0.5,
        tell: Tell = to_nobody,
        gate: WriteGate | None = None,
    ) -> None:
        """`gate`: a master of an election follows nothing while it does not lead. `authd`: what authd of this process
        says of client.keys. `is_first_life`: the node was started (as opposed to this process being restarted), so
        nothing was seen yet. `guard`, `max_delete_share`: limit how many keys, and which part of its groups, a master
        may lose at once. `rules`: what is synchronised, for links and for empty groups. `tell`: takes what comes and
        goes on a master, for the journal."""
        self._gate = gate
        self._say = say
        self._told: dict[str, float] = {}
        self.groups = GroupFollower(
            engine,
            root,
            on_worker=on_worker,
            is_first_life=is_first_life,
            say=say,
            say_once=self._say_once,
            rules=rules,
            tell=tell,
            max_delete_share=max_delete_share,
        )
        self.keys = KeyFollower(
            engine,
            private,
            root,
            on_worker=on_worker,
            read_keys=read_keys,
            authd=authd,
            say=say,
            say_once=self._say_once,
            guard=guard,
            tell=tell,
        )

    async def run(self) -> None:
        """Runs for ever. An unexpected failure of one check is logged, and the next check follows."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        if self._gate is not None and not self._gate.holds:
            self.keys.look_anew()
            return
        for part in (self.groups, self.keys):
            try:
                await part.look()
            except (OSError, sqlite3.Error, ValueError) as failure:
                self._say_once("WARNING", f"{failure}; nothing is changed meanwhile.")
            except Exception:
                self._say_once("ERROR", f"Unexpected failure: {stacks.told()}")

    def _say_once(self, level: str, text: str) -> None:
        """Logs a problem once. After a pause of FORGET_S the same problem is news again."""
        now = time.monotonic()
        is_new = now - self._told.get(text, -FORGET_S) >= FORGET_S
        self._told = {one: at for one, at in self._told.items() if now - at < FORGET_S} | {text: now}
        if is_new:
            self._say(level, text)
