"""Registrations on a master whose authd is not ours, found as changes of the key file. The asker and its node are
unknown then, and changes while the monitor is down are missed.

Reads the file in a thread, some seconds after an event reports a change. What it keeps between two readings contains no
key.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence

from clusterd.agent_keys import KEY_FILE, Key, decode_keys, parse_keys
from clusterd.file_version import FileVersion, version_at
from clusterd.messages.journal import ChangeEvent, RegistrationEvent
from clusterd.monitor.feed import Heard
from clusterd.rounds import Rounds

PAUSE_S = 2.0
"""The delay from a change to the reading: authd writes twice for one registration, and more may follow."""
SHARE = 20
"""After a slow reading it pauses this many times as long."""
MOST_EVENTS = 500
"""Most events of one reading; the last one counts the rest."""
LONGEST_NAME = 128
Known = dict[int, tuple[str, str, str]]
"""Id, name and address of the agents that are not removed, by number."""


class KeyFileEvents:
    """`take` receives all events; `run` reads the file, for ever."""

    def __init__(self, root: str, tell: Callable[[Sequence[RegistrationEvent]], None], rounds: Rounds) -> None:
        """`tell`: takes the agents that were added and removed."""
        self._path = f"{root}/{KEY_FILE}"
        self._tell = tell
        self._rounds = rounds
        self._has_changed = asyncio.Event()
        self._known = b""
        self._version: FileVersion | None = None

    def take(self, batch: Sequence[Heard]) -> None:
        """Neither waits nor raises."""
        if any(isinstance(heard.event, ChangeEvent) and _may_be_about_keys(heard.event) for heard in batch):
            self._has_changed.set()

    async def run(self) -> None:
        """The first reading only notes which agents there are."""
        is_first = True
        while True:
            self._has_changed.clear()
            begun = time.monotonic()
            with self._rounds.survive(f"looking for registrations in {KEY_FILE}"):
                found = await asyncio.to_thread(self._look)
                if found and not is_first:
                    self._tell(found)
                is_first = False
            pause_s = PAUSE_S + SHARE * (time.monotonic() - begun)
            await self._has_changed.wait()
            await asyncio.sleep(pause_s)

    def _look(self) -> list[RegistrationEvent]:
        """Reads the file in a thread. A file that is missing for a moment, or lists no agent, does not count as the
        removal of all agents."""
        version = version_at(self._path)
        if version is None or version == self._version:
            return []
        with open(self._path, "rb") as file:
            keys, _ = parse_keys(decode_keys(file.read()))
        self._version = version
        if not keys:
            return []
        now = {key.number: _told_of(key) for key in keys if not key.is_removed}
        before, self._known = _unpacked(self._known), _packed(now)
        return list(_differences(before, now))


def _may_be_about_keys(event: ChangeEvent) -> bool:
    return bool(event.unlisted) or any(file.path == KEY_FILE for file in event.files)


def _differences(before: Known, now: Known) -> Iterator[RegistrationEvent]:
    changes = [("removed", before[number]) for number in sorted(before) if now.get(number) != before[number]]
    changes += [("added", now[number]) for number in sorted(now) if before.get(number) != now[number]]
    for number, (what, (agent, name, ip)) in enumerate(changes[:MOST_EVENTS], 1):
        left = len(changes) - number
        why = f"and {left} more changes at once" if number == MOST_EVENTS and left else ""
        yield RegistrationEvent(what=what, agent=agent, name=name, ip=ip, why=why)


def _told_of(key: Key) -> tuple[str, str, str]:
    name, ip = (text.encode(errors="replace").decode()[:LONGEST_NAME] for text in (key.name, key.ip))
    return key.id, name, ip


def _packed(known: Known) -> bytes:
    """A tenth of a dictionary's memory: there may be 100,000."""
    return "\n".join(" ".join(words) for words in known.values()).encode()


def _unpacked(data: bytes) -> Known:
    lines = (line.split(" ") for line in data.decode().split("\n") if line)
    return {int(agent): (agent, name, ip) for agent, name, ip in lines}
