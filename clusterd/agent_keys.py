"""The lines of `etc/client.keys` (wdb.md 8.5)."""

import base64
import re

import msgspec

KEY_FILE = "etc/client.keys"
ANY = "any"
"""The address of an agent that may come from anywhere."""
GREATEST_ID = 2**31 - 1
LONGEST_KEY = 127
"""Most characters of a key that readers accept (wdb.md 8.2)."""
_REMOVED = ("!", "#")
_PARTS = 4
_MARK = "\ufeff"
_REGISTERED = re.compile(r"^(\d{3,10}) (?![!#])[^ \n]+ [^ \n]+ (?!\r$)[^ \n]+$", re.ASCII | re.MULTILINE)
_ID = re.compile(r"\d{1,10}", re.ASCII)


class Key(msgspec.Struct, frozen=True):
    """A line of client.keys. `id` as written, usually three digits or more; `is_removed`: kept for the record."""

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
    """Parses an agent's number, with or without leading zeros; None for any other text."""
    number = int(text) if _ID.fullmatch(text) else 0
    return number if 0 < number <= GREATEST_ID else None


class Other(msgspec.Struct):
    """Lines of client.keys that are no agents. They are never dropped: they are written back unchanged."""

    comments: list[str] = msgspec.field(default_factory=list)
    """Lines that begin with # or a space, which every reader skips."""
    bad: list[str] = msgspec.field(default_factory=list)


def importable(key: Key) -> str:
    """What an agent receives: the Base64 text of its line without the line end (wdb.md 8.5)."""
    return base64.b64encode(key.line().rstrip("\n").encode(errors="surrogateescape")).decode("ascii")


def registered_ids(text: str) -> list[str]:
    """Ids of the agents that are not removed: as from parse_keys, in a third of the time. With 100,000 agents this is
    the cost of a request about one agent."""
    return _REGISTERED.findall(text.removeprefix(_MARK))


def parse_keys(text: str) -> tuple[list[Key], Other]:
    """Parses the file: its keys, and the lines that are no agents. A byte order mark is not part of the first key."""
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
    """Decodes the file, whatever bytes it holds."""
    return data.decode(errors="surrogateescape")


def readable(key: Key) -> Key:
    """The key without bytes that are invalid in UTF-8."""
    if key.name.isascii() and key.key.isascii() and key.ip.isascii():
        return key
    name, ip, secret = (
        text.encode(errors="surrogateescape").decode(errors="replace") for text in (key.name, key.ip, key.key)
    )
    return msgspec.structs.replace(key, name=name, ip=ip, key=secret)
