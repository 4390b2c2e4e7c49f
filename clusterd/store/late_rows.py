"""Rows of the database that are behind client.keys: the key of their agent is gone, or another one by now, and the
database refused to hear of it. A candidate that takes over makes a key of each row that had one, so nothing that
depends on these agents is answered before their rows are right."""

from collections.abc import Callable, Collection, Sequence

from clusterd.store.errors import NotKept, StoreFailed
from clusterd.store.key_table import KeyTable
from clusterd.store.keys import KeyFile
from clusterd.store.registry import RegisteredAgents, Registration


class LateRows:
    """Owner of the list. Belongs to one authd and is used between the writes of its file only."""

    def __init__(self, agents: RegisteredAgents, file: KeyFile, say: Callable[[str, str], None]) -> None:
        """`say`: logs a text at a level."""
        self._agents = agents
        self._file = file
        self._say = say
        self.numbers: set[int] = set()

    def forget(self, numbers: Collection[int] | KeyTable) -> None:
        """These have a key: the rows are theirs."""
        self.numbers = {number for number in self.numbers if number not in numbers}

    async def delete(self) -> None:
        """Deletes those without a key. Raises StoreFailed."""
        gone = {number for number in self.numbers if number not in self._file.table}
        if gone:
            await self._agents.apply([], sorted(gone))
            self.numbers -= gone
            self._file.doubt_database()  # another program may have given such an id meanwhile

    async def change(self, replacing: Sequence[Registration], gone: Sequence[int]) -> None:
        """After the file is written: deletes the rows of agents that are gone, and puts new agents in the place of old
        ones with their ids. What the database refuses is late from then on, and the follower mends it when it can."""
        if not replacing and not gone:
            return
        try:
            await self._agents.apply(replacing, gone)
        except StoreFailed as failure:
            self._are_late([*gone, *(row.id for row in replacing)], failure)

    async def take_back(self, new: Sequence[Registration]) -> None:
        """After the file could not be written: deletes rows that were made for it."""
        if not new:
            return
        numbers = sorted(row.id for row in new)
        try:
            await self._agents.apply([], numbers)
        except NotKept:
            pass  # it is done; a crash may bring them back, which the next start deletes
        except StoreFailed as failure:
            self._are_late(numbers, failure)
        self._file.doubt_database()  # rows stay, or that of another program's agent with such an id has gone, too

    def _are_late(self, numbers: Collection[int], failure: StoreFailed) -> None:
        self._file.doubt_database()
        self.numbers.update(numbers)
        self._say("ERROR", f"Agents without a key stay in the database for now: {failure}")
