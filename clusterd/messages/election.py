"""What others say to the process `election`, on its socket `election.sock`: frames of a length of 4 bytes, little
endian, and msgpack; a request, its answer, the next request (docs/ha.md). The other way election asks the store
(clusterd/messages/replica.py: Drain, Undrain, Show) and sync (the local commands `askfailsafe`, `hold`)."""

from typing import Any, Literal

import msgspec

HaKind = Literal["status", "switchover", "failover", "pause", "resume", "bootstrap", "forget"]


class SetConfirming(msgspec.Struct, frozen=True, tag="confirming"):
    """From a master's store: from now on answers wait for candidate `name`; empty: for nobody. `position`: of the last
    change, whatever was answered until now is not after it. Answer: ConfirmingSet, when etcd has it: nobody who has
    less than that position may take over, and of the others only `name`. So confirmations count, and answers without
    one are given, only after it."""

    term: int
    name: str
    position: int


class FailsafeAsked(msgspec.Struct, frozen=True, tag="failsafe"):
    """From a candidate's sync: its master `leader`, at the other end of the link, cannot reach etcd and asks whether it
    may go on in `term` for `for_s` seconds. Answer: FailsafeAnswer. A yes is a promise not to take the lead for so
    long, and for one lease at least."""

    term: int
    leader: str
    for_s: float = 0.0


class HaCommand(msgspec.Struct, frozen=True, tag="command"):
    """From a command of an operator. Answer: HaAnswer. `to`: a node; `force`: whatever speaks against it; `term`: of
    `bootstrap`, the highest one that any node knows."""

    kind: HaKind
    to: str = ""
    force: bool = False
    term: int = 0


ElectionRequest = SetConfirming | FailsafeAsked | HaCommand


class ConfirmingSet(msgspec.Struct, frozen=True):
    """`ok`: etcd has the name. Otherwise this node leads no more, or etcd is away: `why`."""

    name: str
    ok: bool
    why: str = ""


class FailsafeAnswer(msgspec.Struct, frozen=True):
    yes: bool
    why: str = ""


class HaAnswer(msgspec.Struct, frozen=True):
    """`ok` false: nothing was done, `text` says why and what to do. `facts`: of `status`; of an order its `id`."""

    ok: bool
    text: str = ""
    facts: dict[str, Any] = {}


class ElectionAnswer(msgspec.Struct, frozen=True, array_like=True):
    """`payload`: the encoded answer; `failure`: why there is none."""

    payload: bytes = b""
    failure: str = ""


# ---- election to sync of its node ------------------------------------------------------------------------------------


class AskFailsafe(msgspec.Struct, frozen=True):
    """The payload of the local command `askfailsafe`: ask these candidates, each over its link, whether they know
    `term` and do not lead for `for_s` seconds. Answer, within LIMIT_S: FailsafeAnswers."""

    term: int
    leader: str
    nodes: tuple[str, ...]
    for_s: float = 0.0


class FailsafeAnswers(msgspec.Struct, frozen=True):
    """Of each node that answered: whether it said yes."""

    yes: dict[str, bool] = {}


class HeldChanges(msgspec.Struct, frozen=True):
    """The answer to the local command `hold`. `runs`: a request of the API that still changes something, empty if none
    does; `changed_s`: how many seconds ago the last one ended, None if there was none. The manifest has what they
    changed."""

    runs: str = ""
    changed_s: float | None = None


LIMIT_S = 2.0
"""How long candidates may take to answer. One that does not has not said yes."""
