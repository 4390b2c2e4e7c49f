"""Against the loss of agent keys on a master: a `client.keys` that is suddenly without many of its keys was emptied by
mishap (an editor, a full disk) more likely than by wish, and is not what every worker and the next registration should
go on from.

Two small files of the state directory join sync, which decides what the workers get, and the store, which writes the
file:

    agent-keys           what sync has accepted: digests of the last contents of the file, with the ids in use. Written
    by jobs agent-keys-written   digests of what authd has written last: every key missing there was removed by a
    request
"""

from collections.abc import Collection, Iterable
from hashlib import blake2b
from pathlib import Path

import msgspec

from clusterd.agent_keys import KEY_FILE, Key, decode_keys, parse_keys
from clusterd.rundir import STATE
from hashing.atomic import FileOps
from hashing.errors import MalformedPackage
from hashing.state_file import load_state, save_state

WRITTEN_KEPT = 32
"""How many of authd's file contents are believed: some may be on their way to the workers while it writes the next."""
RECORDS_KEPT = 3
"""A job may run twice; then it asks for the content before the one that it has recorded itself."""
WHOLE_KEY = 64
"""Characters of a key made by authd. The last line of a partly written file has fewer, or no newline."""
_RECORD_MAGIC, _WRITTEN_MAGIC = b"cdakeys1", b"cdawrit1"


class KeyRules(msgspec.Struct, frozen=True):
    """A loss of more than `share` of at least `least` keys at once is not believed; share 1: every loss is."""

    share: float = 0.5
    least: int = 3

    @property
    def is_on(self) -> bool:
        return self.share < 1


class Loss(msgspec.Struct, frozen=True):
    """`lost` of `known` keys are missing from the file."""

    lost: int
    known: int

    @property
    def text(self) -> str:
        return (
            f"{KEY_FILE} has lost {self.lost} of {self.known} agent keys at once. Put them back (every worker has the "
            "file), or "
            'run "clusterd sync --allow-delete" on the master if they are meant to be gone'
        )


class Accepted(msgspec.Struct, frozen=True, array_like=True):
    """A content of the file: its BLAKE2b and the ids of the keys in use."""

    digest: bytes
    ids: list[int]


class KeyContent:
    """What the guard needs to know of a content; `data` None: there is no file. `keys`: what `parse_keys` has found in
    it, where that is known: with 100,000 agents it takes a fifth of a second."""

    def __init__(self, data: bytes | None, keys: list[Key] | None = None) -> None:
        self.digest = b"" if data is None else blake2b(data).digest()
        text = "" if data is None else decode_keys(data)
        if keys is None:
            keys, _ = parse_keys(text)
        self.ids = frozenset(key.number for key in keys if not key.is_removed)
        self.removed = frozenset(key.number for key in keys if key.is_removed)
        """Removed agents whose lines are kept for the record: not lost."""
        last = text.rpartition("\n")[2]
        whole = parse_keys(last)[0]
        self.is_cut = "\0" in text or (bool(last) and not (whole and len(whole[0].key) >= WHOLE_KEY))
        """The file ends in the middle of a line, or contains blocks that were never written."""

    def loss(self, known: Collection[int], rules: KeyRules) -> Loss | None:
        """The loss that is not believed if this content follows one with the keys `known`; None if it is believed."""
        if not rules.is_on or len(known) < rules.least:
            return None
        lost = len(set(known) - self.ids - self.removed)
        if lost > rules.share * len(known) or (lost and self.is_cut):
            return Loss(lost, len(known))
        return None


def record_path(state_dir: str) -> str:
    return f"{state_dir}/agent-keys"


def load_accepted(state_dir: str) -> list[Accepted]:
    """Contents that sync has accepted, the newest last; empty before the first."""
    try:
        found: list[Accepted] = load_state(record_path(state_dir), _RECORD_MAGIC, _RECORD)
    except (OSError, MalformedPackage):
        return []
    return found


def note_accepted(state_dir: str, content: KeyContent) -> None:
    """Stores it durably: a power failure that empties the file must not destroy what it is compared with. Raises
    OSError."""
    records = [record for record in load_accepted(state_dir) if record.digest != content.digest]
    records.append(Accepted(content.digest, sorted(content.ids)))
    save_state(FileOps(), record_path(state_dir), _RECORD_MAGIC, records[-RECORDS_KEPT:], durable=True)


def is_accepted(root: str, digest: bytes) -> bool:
    """Whether sync continues from the content with this digest."""
    records = load_accepted(f"{root}/{STATE}")
    return bool(records) and records[-1].digest == digest


def note_written(root: str, digests: Iterable[bytes]) -> None:
    """Records that authd has written, or is about to write, contents with these digests. Raises OSError."""
    directory = Path(root, STATE)
    directory.mkdir(mode=0o770, parents=True, exist_ok=True)
    save_state(FileOps(), str(directory / "agent-keys-written"), _WRITTEN_MAGIC, list(digests))


def written_by_authd(state_dir: str) -> list[bytes]:
    """Digests of the contents that authd has written, the newest last."""
    try:
        found: list[bytes] = load_state(f"{state_dir}/agent-keys-written", _WRITTEN_MAGIC, _WRITTEN)
    except (OSError, MalformedPackage):
        return []
    return found


_RECORD = msgspec.msgpack.Decoder(list[Accepted])
_WRITTEN = msgspec.msgpack.Decoder(list[bytes])
