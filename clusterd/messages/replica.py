"""What the stores of a master and of a candidate say to each other, and to the sync process of their node that carries
it (docs/ha.md)."""

import msgspec


class AskChanges(msgspec.Struct, frozen=True, array_like=True):
    """A candidate to its master: what has changed since `since` in the log `epoch`? `held`: up to there everything is
    on the candidate's disk, in a replica that is whole (0: it has none). `digest`: with the digest of everything, if
    the answer reaches the end of the log. `state`: `copying` or `following`. `checked_at`: when digests were compared
    last, wall-clock seconds; `is_equal`: whether they were equal. `priority`: of the candidate in an election; 0: it
    takes no part, or may not lead now, and `objection` says why. `joins`: it has a whole replica of `epoch` and can
    make one of another log of it, if it is told what that has in common (Changes.past). `again`: units (kind, id) that
    it wants to hear, whether they changed or not; at most MOST_AGAIN. `lacking`: the epoch of a log of this same master
    that lacks `lost` units which this candidate was told of long ago; empty: there is none."""

    epoch: str
    since: int
    held: int
    digest: bool
    state: str
    checked_at: float | None = None
    is_equal: bool | None = None
    priority: int = 0
    objection: str = ""
    joins: bool = False
    again: tuple[tuple[int, int], ...] = ()
    lacking: str = ""
    lost: int = 0


class Changes(msgspec.Struct, frozen=True, array_like=True):
    """The answer: the units that have changed in (`since`, `upto`] (LZ4 block of a msgpack list of units). `since` is 0
    with another `epoch` than that of the question, or where it cannot be told: everything comes anew. `behind`: units
    that have changed after `upto`; 0: this is all. `greatest`: the highest agent id ever given; `boot`, `wall`: what
    the moments of the agents refer to (clusterd/store/schema.py). `digest`: of everything, at `upto`; may be empty.

    To a question that cannot be answered otherwise than with everything `past` has the lives of this log that are over
    (epoch, last position, by what moments were moved; clusterd/store/change_log.py), and `floor` up to where deletions
    are forgotten. `is_offer`: there is nothing but these; the candidate may go on from where both logs are one, or ask
    for everything. `unanswered`: agents whose registration may not have been answered yet: if this master is lost, who
    asks for the same one again is given another (clusterd/store/decisions.py). `teller`: name and term of a master that
    has lost nothing as long as both are the same; empty: not told, as in an election."""

    epoch: str
    since: int
    upto: int
    behind: int
    greatest: int
    boot: str
    wall: str
    units: bytes
    digest: str = ""
    past: tuple[tuple[str, int, int], ...] = ()
    floor: int = 0
    is_offer: bool = False
    unanswered: tuple[int, ...] = ()
    teller: str = ""


class ApiFiles(msgspec.Struct, frozen=True):
    """Files of the REST API by name, with what they hold; digests instead when a candidate asks."""

    files: dict[str, bytes] = {}


class ReplicaReply(msgspec.Struct, frozen=True, array_like=True):
    """The response to `get_changes`: Changes as encoded by the store, and the digest of the REST API's files (None: the
    master cannot read them, the candidate keeps what it has)."""

    changes: bytes
    files: str | None


# ---- sync to the store of its own node -------------------------------------------------------------------------------


class FirstAsk(msgspec.Struct, frozen=True, tag="first"):
    """To a candidate's store: the link is new. Answer: NextAsk."""


class Apply(msgspec.Struct, frozen=True, tag="apply"):
    """To a candidate's store: what the master has answered. Answer: NextAsk."""

    changes: bytes


class Tell(msgspec.Struct, frozen=True, tag="tell"):
    """To a master's store: what candidate `node` asks. Answer: Changes, after up to WAIT_S where nothing changes."""

    node: str
    ask: bytes


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """To a master's store: there is no link to candidate `node` any more. `for_good`: an operator has said that it
    does not come back; one that is linked stays."""

    node: str
    for_good: bool = False


class Show(msgspec.Struct, frozen=True, tag="show"):
    """The store's part of `clusterd ha status`. Answer: JSON. `objection`, from election to a candidate's store: why
    this node may not lead as far as its election knows, empty: it may; the master is told, so that somebody else
    confirms. None from all others."""

    objection: str | None = None


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """To a master's store, from election: take no more writes from now on, for `for_s` seconds or until Undrain.
    Answer: Drained, when all that was taken before is committed."""

    for_s: float


class Undrain(msgspec.Struct, frozen=True, tag="undrain"):
    """To a master's store: take writes again. Answer: nothing."""


class AwaitCompared(msgspec.Struct, frozen=True, tag="await_compared"):
    """To a master's store: answer, with nothing, when a candidate has shown that this master's disk was not set back,
    or COMPARED_S after the start of the store."""


class Mark(msgspec.Struct, frozen=True, tag="mark"):
    """To a master's store, from who has changed a file of the REST API, or groups of agents, which are committed.
    Answer: Marked, as late as that of a registration."""


StoreRequest = FirstAsk | Apply | Tell | Gone | Show | Drain | Undrain | AwaitCompared | Mark


class Marked(msgspec.Struct, frozen=True):
    """Whether a candidate has the change, too; `why` not. Both empty on a candidate, which keeps those of its master.
    `is_refused`: it may not be answered either, as a registration would not be."""

    is_kept: bool = False
    why: str = ""
    is_refused: bool = False


class Drained(msgspec.Struct, frozen=True):
    """The position of the last change."""

    position: int


class NextAsk(msgspec.Struct, frozen=True):
    """An encoded AskChanges for the master."""

    ask: bytes


class StoreAnswer(msgspec.Struct, frozen=True, array_like=True):
    """`failure`: why there is no `payload`; empty if all is well."""

    payload: bytes = b""
    failure: str = ""


MOST_AGAIN = 500
COMPARED_S = 15.0
"""A worker that has been without a master for long tries again each ten seconds."""
WAIT_S = 10.0
"""How long a master's store waits for a change before it answers that there is none."""
