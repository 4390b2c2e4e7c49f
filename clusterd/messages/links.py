"""Events and requests on links, between net and sync, in both directions."""

import msgspec

from clusterd.messages.base import Message
from ipc.descriptor import Descriptor


class LinkInfo(msgspec.Struct, frozen=True):
    """One established link. `kind`: "worker" (inbound, on a master), "master" (outbound, on a worker), "local" (a
    program on the local socket). `name` is the peer's node name, for kind "master" the master's address as text, for
    kind "local" the client number. `link`: a number that no life of net on this node uses again. `uid`, `pid`: the user
    and the process of a local client, -1 and 0 for other kinds. `connected_at` and `keepalive_at` are wall-clock
    seconds, to be shown; `up_since`, the moment of `connected_at`, is monotonic, to judge by."""

    link: int
    kind: str
    name: str
    node_type: str = ""
    version: str = ""
    address: str = ""
    connected_at: float = 0.0
    keepalive_at: float = 0.0
    uid: int = -1
    pid: int = 0
    up_since: float = 0.0


class OpenTask(msgspec.Struct, frozen=True):
    """A task that this node was sending at sync's last report. A new sync tells the peer that the task is gone
    (TaskNote)."""

    link: int
    command: str
    task_id: str


class NetHello(Message, frozen=True, tag="net-hello"):
    """First message of a net process on the channel, and its answer to SyncHello: everything that a sync process needs.

    `sending_slabs` names a slab of sync's once for each message that net still sends from it. `sync`: incarnation of
    the sync process that it answers, 0 for none: what was said unasked may reach another one than net knows of.
    `goes_on`: net has dropped no message since the NetHello before this one; who has read that one and all since knows
    everything, and has requests of these links to answer."""

    incarnation: int
    links: list[LinkInfo]
    sending_slabs: list[int]
    open_tasks: list[OpenTask]
    serving: str = ""
    away: str = ""
    sync: int = 0
    goes_on: bool = False


class LinkUp(Message, frozen=True, tag="link-up"):
    """A peer's hello was accepted, or a local client connected."""

    info: LinkInfo


class LinkDown(Message, frozen=True, tag="link-down"):
    """A link of a LinkUp has ended. Every unanswered request to it has failed. `silent_s`: it was given up because
    nothing had come for so long; else 0."""

    link: int
    reason: str
    silent_s: float = 0.0


class HelloRefused(Message, frozen=True, tag="hello-refused"):
    """A node may not join. `name` is empty when the node did not get as far as hello; `reason` contains its value and
    ours."""

    name: str
    address: str
    reason: str


class MasterAway(Message, frozen=True, tag="master-away"):
    """A worker has no link to its master, and why; sent again whenever the reason changes."""

    reason: str


class KeepaliveSeen(Message, frozen=True, tag="keepalive"):
    """The peer's `echo-c` arrived (master), or the master answered ours (worker)."""

    link: int
    keepalive_at: float


class PeerRequest(Message, frozen=True, tag="peer-request"):
    """A request that net does not answer itself. sync answers each with one Reply that names `serial`, in any order.

    Either `payload` (already opened, at most INLINE_BYTES) or `body`: the sealed body, still in net's slabs, one
    descriptor per fragment of a divided request. sync returns those slabs with Release (or with Reply.body)."""

    link: int
    serial: int
    command: str
    payload: bytes = b""
    body: list[Descriptor] | None = None


class Answered(Message, frozen=True, tag="answered"):
    """The response to our Request `id`: the response's command word and payload, or the sealed body when large."""

    id: int
    command: str
    payload: bytes = b""
    body: list[Descriptor] | None = None


class Unanswered(Message, frozen=True, tag="unanswered"):
    """Our Request `id` ended without a response. `why`: "timeout", "unsent" (the same, and the peer will never
    read it), "closed" (link gone) or "refused" (our request was invalid); "string": see GiveString."""

    id: int
    why: str
    text: str = ""


class SlabsReturned(Message, frozen=True, tag="slabs-returned"):
    """net has written a message from each of these slabs of sync's (or dropped it with its link). A slab that is sent
    to several links is returned once for each."""

    slabs: list[int]


class SyncHello(Message, frozen=True, tag="sync-hello"):
    """First message of a sync process, and its first one to each new net process, which ignores what it reads before:
    that was meant for its predecessor. net fails every open request of an earlier sync and answers with NetHello."""

    incarnation: int


class Reply(Message, frozen=True, tag="reply"):
    """The response to PeerRequest `serial`. `body`: an already sealed body (of net's or sync's slabs), sent unchanged.
    `log`: the text of net's ERROR line `Internal error processing request ...` (wire.md 3.2), none when empty.

    With `more` the request stays open (and counts no more against `requests_per_link`), and sync sends the rest as
    Requests of ours. With an empty command nothing is written: `sendsync` on the local socket gets no response. If sync
    dies before a Reply without `more`, net sends `err` to the asker: as the response, or as a request of ours if there
    was a Reply."""

    link: int
    serial: int
    command: str
    payload: bytes = b""
    body: list[Descriptor] | None = None
    log: str = ""
    more: bool = False


class Request(Message, frozen=True, tag="request"):
    """Send a request to a peer or local client; net picks the counter and answers with Answered or Unanswered. Either
    `payload` (net seals it) or `body`, already sealed, in sync's slabs, which net returns with SlabsReturned."""

    link: int
    id: int
    command: str
    payload: bytes = b""
    body: list[Descriptor] | None = None
    timeout_s: float = 20.0


class GiveString(Message, frozen=True, tag="give-string"):
    """Send `content` (at most INLINE_BYTES) to a peer or local client as a long string, by `new_str` and `str_upd`,
    then send `command` with `word` (none when empty) and the id that the peer chose. Ends like a Request: Answered is
    the response to `command`; Unanswered "string": it did not accept the string. `timeout_s` applies to each
    request."""

    link: int
    id: int
    command: str
    word: str
    content: bytes
    timeout_s: float = 20.0


class CloseLink(Message, frozen=True, tag="close-link"):
    """Close this link; `reason` is logged."""

    link: int
    reason: str


class Release(Message, frozen=True, tag="release"):
    """These slabs of net's are free again."""

    slabs: list[int]


class TaskNote(Message, frozen=True, tag="task-note"):
    """Remember (`open`) or forget, across lives of sync, that this node sends `task_id` under `command` on this link.
    With `caps` as command: that it and this worker agreed on the capabilities `task_id`, joined by commas."""

    link: int
    command: str
    task_id: str
    open: bool


class WriteLog(Message, frozen=True, tag="write-log"):
    """A line for subtag `Main`, which only net writes (one writer per subtag keeps the order of lines)."""

    level: str
    tag: str
    text: str


NetToSync = (
    NetHello
    | LinkUp
    | LinkDown
    | HelloRefused
    | MasterAway
    | KeepaliveSeen
    | PeerRequest
    | Answered
    | Unanswered
    | SlabsReturned
)


SyncToNet = SyncHello | Reply | Request | GiveString | CloseLink | Release | TaskNote | WriteLog
