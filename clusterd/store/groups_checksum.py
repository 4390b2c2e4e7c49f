"""The global group hash from memory (wdb.md 5): the hashes of all agents that have one, in order of id, 8 bytes an
agent.

The table stays the truth; whoever writes column `group_hash` tells this sequence in the same transaction, and it is
loaded again after a rollback or a statement of a client. Ids only order it, they are not hashed.
"""

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable

HASH_BYTES = 8


def group_hash(names_csv: str) -> str:
    """The group hash of an agent: the first 8 hexadecimal digits of the SHA-256 of its groups, joined by commas."""
    return hashlib.sha256(names_csv.encode()).hexdigest()[:HASH_BYTES]


class GroupHashes:
    """The sequence. A hash of another length than 8 bytes, which only a client's own SQL can write, is kept aside."""

    def __init__(self) -> None:
        self._ids = array("q")
        self._hashes = bytearray()
        self._odd: dict[int, bytes] = {}
        self._digest: str | None = None
        self._fresh = False

    def __len__(self) -> int:
        return len(self._ids) + len(self._odd)

    def load(self, rows: Iterable[tuple[int, bytes]]) -> None:
        """Begin anew with (id, hash) in ascending order of id, hashes not NULL, ids above 0."""
        ids, hashes, odd = array("q"), bytearray(), {}
        for agent_id, encoded in rows:
            if len(encoded) == HASH_BYTES:
                ids.append(agent_id)
                hashes += encoded
            else:
                odd[agent_id] = encoded
        self._ids, self._hashes, self._odd, self._fresh = ids, hashes, odd, False

    def put(self, agent_id: int, text: str | None) -> None:
        """This agent's hash is `text` now, or none. Agent 0 does not count."""
        if agent_id <= 0:
            return
        self._fresh = False
        self._odd.pop(agent_id, None)
        place = bisect_left(self._ids, agent_id)
        there = place < len(self._ids) and self._ids[place] == agent_id
        encoded = b"" if text is None else text.encode()
        start = place * HASH_BYTES
        if len(encoded) != HASH_BYTES:
            if there:
                del self._ids[place]
                del self._hashes[start : start + HASH_BYTES]
            if text is not None:
                self._odd[agent_id] = encoded
        elif there:
            self._hashes[start : start + HASH_BYTES] = encoded
        else:
            self._ids.insert(place, agent_id)
            self._hashes[start:start] = encoded

    def digest(self) -> str | None:
        """40 hexadecimal digits, or None when no agent has a hash."""
        if not self._fresh:
            self._digest = self._compute()
            self._fresh = True
        return self._digest

    def _compute(self) -> str | None:
        if not len(self):
            return None
        if not self._odd:
            return hashlib.sha1(self._hashes, usedforsecurity=False).hexdigest()
        whole = {
            agent_id: bytes(self._hashes[n * HASH_BYTES : (n + 1) * HASH_BYTES]) for n, agent_id in enumerate(self._ids)
        }
        whole.update(self._odd)
        return hashlib.sha1(b"".join(whole[key] for key in sorted(whole)), usedforsecurity=False).hexdigest()
