"""Events of a node, told by its processes to the process `monitor`: datagrams on `journal.sock` of the run directory.

Nobody waits for them and they may be lost (clusterd/event_sender.py). No key, token, hash of a password or password is
ever in one. As JSON an event is one flat object: `seq`, `at`, `node`, `kind` and the fields of its struct.
"""

from typing import Any

import msgspec

LARGEST = 65536
"""Most bytes of one datagram."""
MOST_FILES = 500
"""Most files that one event lists."""
LONGEST_TEXT = 1000
MANIFEST_DIGITS = 12
DIGEST_BYTES = 16
"""What is kept of a file's BLAKE2b: its first 32 hex digits."""


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of every event."""

    @property
    def kind(self) -> str:
        return str(self.__struct_config__.tag)

    @property
    def outcome(self) -> str:
        """The word that tells events of one kind apart, for hooks and filters: `lost` of a worker, `failed` of a
        sync; one of OUTCOMES, or empty."""
        return next((word for word in (getattr(self, "result", ""), getattr(self, "what", "")) if word), "")


class FileChange(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One file. `what`: added, changed, deleted or withheld. Digests: the first DIGEST_BYTES of BLAKE2b. None: there
    was, or is, no file."""

    path: str
    what: str
    size_before: int | None
    size: int | None
    digest_before: bytes | None
    digest: bytes | None


class ChangeEvent(Event, frozen=True, kw_only=True, tag="change"):
    """Another manifest of the node itself is current. `manifest`: the beginning of its content digest, equal on nodes
    with equal files. One with many files is told in `parts` events; the counts are of this part, but for files beyond
    those that are listed, which the last part counts as `unlisted`. `seconds`: how long the look at the files took."""

    manifest: str
    source: str
    added: int = 0
    changed: int = 0
    deleted: int = 0
    withheld: int = 0
    unlisted: int = 0
    files: tuple[FileChange, ...] = ()
    part: int = 1
    parts: int = 1
    seconds: float = 0.0


class LeftOut(msgspec.Struct, frozen=True):
    """A file that was not sent or not written, and why."""

    path: str
    why: str


class SyncEvent(Event, frozen=True, kw_only=True, tag="sync"):
    """One sync with a peer has ended. `worker`: whose files or agents they are. `what`: files, ahead (what has changed,
    sent without being asked), groups or agents. `manifest`: as in ChangeEvent, empty where there is none. `files`: how
    many were written or deleted; of groups and agents how many of these. `result`: ok, failed or partial."""

    worker: str
    what: str
    manifest: str = ""
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    result: str = "ok"
    why: str = ""
    left_out: tuple[LeftOut, ...] = ()


class RegistrationEvent(Event, frozen=True, kw_only=True, tag="registration"):
    """An agent's key. `what`: added, removed or refused. `through`: the node that was asked; `who`: a program or
    an API user, empty if unknown. `term`: in which this master leads, 0 without one."""

    what: str
    agent: str = ""
    name: str = ""
    ip: str = ""
    through: str = ""
    who: str = ""
    why: str = ""
    term: int = 0


class GroupEvent(Event, frozen=True, kw_only=True, tag="group"):
    """`what`: assigned, unassigned, created, deleted. Many agents at once: `agent` names the first ones, `agents`
    counts them."""

    what: str
    agent: str = ""
    agents: int = 1
    group: str = ""
    who: str = ""


class LoginEvent(Event, frozen=True, kw_only=True, tag="login"):
    """`result`: ok, refused, limited (not looked at, after too many)."""

    user: str
    through: str = ""
    address: str = ""
    result: str = "ok"


class RequestEvent(Event, frozen=True, kw_only=True, tag="request"):
    """An API request that changes something or gives a secret, as the audit in the log has it. `about`: what it named;
    `through`: who asked this node. `result`: done, refused or failed; `why`: the same in words."""

    function: str
    about: str = ""
    user: str = ""
    through: str = ""
    result: str = ""
    why: str = ""


class WorkerEvent(Event, frozen=True, kw_only=True, tag="worker"):
    """`what`: connected, lost, back, refused, forgotten."""

    worker: str
    what: str
    why: str = ""
    address: str = ""


class MasterEvent(Event, frozen=True, kw_only=True, tag="master"):
    """A worker's link to its master. `what`: connected, lost, back. `master`: its address, empty while there has been
    none."""

    what: str
    master: str = ""
    why: str = ""


class ProblemEvent(Event, frozen=True, kw_only=True, tag="problem"):
    """Something hinders a node's work, as `problems` of its status. `what`: begins, ends."""

    what: str
    subject: str
    text: str = ""


class ProcessEvent(Event, frozen=True, kw_only=True, tag="process"):
    """`what`: started, died, killed (it hung), stopped."""

    process: str
    what: str
    pid: int = 0
    why: str = ""


class ReloadEvent(Event, frozen=True, kw_only=True, tag="reload"):
    """The configuration was read again. Names of settings, like clusterd.limits."""

    changed: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()


class ElectionEvent(Event, frozen=True, kw_only=True, tag="election"):
    """The election of the master (docs/ha.md), as this node's part of it has seen it. `what`: leads (this node serves
    as master of `term`), stepped_down, gave_up, follows (`leader` is another node), paused, resumed, etcd_lost,
    etcd_back."""

    what: str
    term: int = 0
    leader: str = ""
    why: str = ""


class LostEvents(Event, frozen=True, kw_only=True, tag="lost"):
    """Events that a process could not tell: the monitor was away or behind. Made by the monitor from the counts of
    senders."""

    process: str
    count: int


AnyEvent = (
    ChangeEvent
    | SyncEvent
    | RegistrationEvent
    | GroupEvent
    | LoginEvent
    | RequestEvent
    | WorkerEvent
    | MasterEvent
    | ProblemEvent
    | ProcessEvent
    | ReloadEvent
    | ElectionEvent
    | LostEvents
)
OUTCOMES = {
    "change": (),
    "sync": ("ok", "failed", "partial"),
    "registration": ("added", "removed", "refused"),
    "group": ("assigned", "unassigned", "created", "deleted"),
    "login": ("ok", "refused", "limited"),
    "request": ("done", "refused", "failed"),
    "worker": ("connected", "lost", "back", "refused", "forgotten"),
    "master": ("connected", "lost", "back"),
    "problem": ("begins", "ends"),
    "process": ("started", "died", "killed", "stopped"),
    "reload": (),
    "election": ("leads", "stepped_down", "gave_up", "follows", "paused", "resumed", "etcd_lost", "etcd_back"),
    "lost": (),
}
"""What each kind may be followed by, as in `worker:lost`: for hooks and filters."""
KINDS = tuple(OUTCOMES)


class Told(msgspec.Struct, frozen=True, array_like=True):
    """One datagram. `at`: wall-clock seconds; `process`: who tells it; `lost`: how many events it could not tell since
    the last one that it told."""

    at: float
    process: str
    lost: int
    event: AnyEvent


def as_json(event: AnyEvent) -> dict[str, Any]:
    """The event's own members of its JSON object, beginning with `kind`; digests in hex."""
    found: dict[str, Any] = msgspec.to_builtins(event, builtin_types=(bytes,))
    if isinstance(event, ChangeEvent):
        found["files"] = [
            {
                "path": one.path,
                "what": one.what,
                "size_before": one.size_before,
                "size": one.size,
                "digest_before": one.digest_before and one.digest_before.hex(),
                "digest": one.digest and one.digest.hex(),
            }
            for one in event.files
        ]
    return found
