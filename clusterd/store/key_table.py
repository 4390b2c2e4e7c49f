"""The agents of client.keys in memory: by number, name and address (wdb.md 8)."""

from collections.abc import Iterable, Iterator

import msgspec

from clusterd.agent_keys import ANY, GREATEST_ID, Key, Other

_ID_WIDTH = 3


class NoIdLeft(ValueError):
    """An agent already has the greatest possible id."""


class _Index:
    """Agents by a text such as their name. We never give one text to two agents, but a file written by others can."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._others: dict[str, list[int]] = {}

    def find(self, text: str) -> int | None:
        return self._first.get(text)

    def put(self, text: str, number: int) -> None:
        if self._first.setdefault(text, number) != number:
            self._others.setdefault(text, []).append(number)

    def drop(self, text: str, number: int) -> None:
        others = self._others.get(text, [])
        if number in others:
            others.remove(number)
        elif others:
            self._first[text] = others.pop(0)
        else:
            del self._first[text]
        if not others:
            self._others.pop(text, None)


class KeyTable:
    """Keys by number, name and address.

    If two lines have one number, the later line wins, but a removed agent never displaces one in use: removed lines
    stand last in the file, even if their number was given again. `other`: the lines that are no agents."""

    def __init__(self, keys: Iterable[Key] = (), other: Other | None = None) -> None:
        self.other = other or Other()
        self._keys: dict[int, Key] = {}
        self._removed: dict[int, Key] = {}
        self._names = _Index()
        self._addresses = _Index()
        self.greatest = 0
        """The greatest number ever used, removed agents included."""
        for key in keys:
            if not key.is_removed:
                self.add(key)
            elif key.number not in self._keys:
                self.count_from(key.number)
                self._removed[key.number] = key

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __contains__(self, number: int) -> bool:
        return number in self._keys

    def get(self, number: int) -> Key | None:
        return self._keys.get(number)

    def named(self, name: str) -> Key | None:
        return self._found(self._names.find(name))

    def at(self, address: str) -> Key | None:
        """The key of this address; `any` belongs to no agent."""
        return None if address == ANY else self._found(self._addresses.find(address))

    def _found(self, number: int | None) -> Key | None:
        return None if number is None else self._keys[number]

    def next_id(self) -> str:
        """The greatest number ever used plus one. Raises NoIdLeft."""
        if self.greatest >= GREATEST_ID:
            raise NoIdLeft(f"an agent has had the greatest id there is, {GREATEST_ID}")
        return f"{self.greatest + 1:0{_ID_WIDTH}d}"

    def count_from(self, number: int) -> None:
        """From now on no number up to this one is given out."""
        self.greatest = max(self.greatest, number)

    def add(self, key: Key) -> None:
        """Adds the key in place of the agent that has its number."""
        number = key.number
        self._drop(number)
        self._removed.pop(number, None)
        self._keys[number] = key
        self._names.put(key.name, number)
        if key.ip != ANY:
            self._addresses.put(key.ip, number)
        self.count_from(number)

    def remove(self, number: int, *, purge: bool) -> None:
        """Marks the key as removed; with `purge` its line leaves the file."""
        key = self._drop(number)
        if key is not None and not purge:
            self._removed[number] = msgspec.structs.replace(key, is_removed=True)

    def _drop(self, number: int) -> Key | None:
        key = self._keys.pop(number, None)
        if key is not None:
            self._names.drop(key.name, number)
            if key.ip != ANY:
                self._addresses.drop(key.ip, number)
        return key

    def render(self) -> str:
        """The content of the file: comments, keys in use, removed keys, and at the end the lines that are not
        understood."""
        lines = [f"{line}\n" for line in self.other.comments]
        lines += [f"{key.id} {key.name} {key.ip} {key.key}\n" for key in self._keys.values()]
        lines += [key.line() for key in self._removed.values()]
        return "".join(lines + [f"{line}\n" for line in self.other.bad])
