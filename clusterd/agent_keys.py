"""The lines of `etc/client.keys` (wdb.md 8.5)."""

import base64
import re

import msgspec

KEY_FILE = "etc/client.keys"
GREATEST_ID = 2**31 - 1
LONGEST_KEY = 127
"""Characters of a key that are read (wdb.md 8.2)."""
_REMOVED = ("!", "#")
_PARTS = 4
_MARK = "\ufeff"
_REGISTERED = re.compile(r"^(\d{3,10}) (?![!#])[^ \n]+ [^ \n]+ (?!\r$)[^ \n]+$", re.ASCII | re.MULTILINE)
_ID = re.compile(r"\d{1,10}", re.ASCII)


class Key(msgspec.Struct, frozen=True):
    """A line of client.keys. `id` as it is written, usually three digits or more; `is_removed`: kept for the record."""

    id: str
    name: str
    ip: str
    key: str
    is_removed: bool = False

    @property
    def number(self) -> int:
        return int(self.id)

    def line(self) -> str:
        return f"{self.id} {'!' if self.is_removed else ''}{self.name} {self.ip} {self.key}\n"


def parse_id(text: str) -> int | None:
    """The number of an agent, with or without leading zeros; None for what is none."""
    number = int(text) if _ID.fullmatch(text) else 0
    return number if 0 < number <= GREATEST_ID else None


class Other(msgspec.Struct):
    """Lines of client.keys that are none of agents. They are nobody's to throw away: they are written again as they are."""

    comments: list[str] = msgspec.field(default_factory=list)
    """Begin with # or a space, which every reader skips."""
    bad: list[str] = msgspec.field(default_factory=list)


def importable(key: Key) -> str:
    """What an agent is given: the Base64 text of its line without the line's end (wdb.md 8.5)."""
    return base64.b64encode(key.line().rstrip("\n").encode(errors="surrogateescape")).decode("ascii")


def registered_ids(text: str) -> list[str]:
    """The ids of the agents that are not removed. As from parse_keys, in a third of the time: with 100,000 agents that is what
    a request about one of them costs."""
    return _REGISTERED.findall(text.removeprefix(_MARK))


def parse_keys(text: str) -> tuple[list[Key], Other]:
    """The keys, and the lines that are none. A byte order mark is no part of the first one."""
    keys, other = [], Other()
    for line in text.removeprefix(_MARK).split("\n"):
        if not line.strip("\r"):
            continue
        if line.startswith(("#", " ")):
            other.comments.append(line)
            continue
        parts = line.removesuffix("\r").split(" ")
        agent_id, name, ip, key = parts if len(parts) == _PARTS else ("", "", "", "")
        is_removed = name.startswith(_REMOVED)
        if not all(parts) or parse_id(agent_id) is None or (is_removed and len(name) == 1):
            other.bad.append(line)
            continue
        keys.append(Key(agent_id, name[1:] if is_removed else name, ip, key[:LONGEST_KEY], is_removed))
    return keys, other


def decode_keys(data: bytes) -> str:
    """The text of the file, whatever bytes are in it."""
    return data.decode(errors="surrogateescape")
