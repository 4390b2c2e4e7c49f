"""What clusterd nodes tell each other about terms (docs/ha.md): the command `term`, and the refusal of a hello by a
node that does not lead. Neither is ever sent to a stock node."""

import re

import msgspec

from clusterd.errors import ClusterError
from clusterd.names import is_address, node_name_problem
from clusterd.role import MOST_TERM

MOST_BYTES = 2048
_NOT_LEADING = re.compile(r"this node does not lead: the master of term (\d{1,16}) is (\S{1,300}) \((\S{1,256})\)")
UNKNOWN = "-"


class TermNote(msgspec.Struct, frozen=True):
    """What a node knows: the highest `term` it has seen, the address and the name of its master (empty: unknown), and
    whether the node itself, `node`, leads now. Term 0: it has never heard of one. `cluster`: the name of its cluster;
    terms of another one with the same key mean nothing here. Empty: not said."""

    term: int
    leads: bool
    node: str
    master: str = ""
    master_name: str = ""
    cluster: str = ""


def build_term(note: TermNote) -> bytes:
    return msgspec.json.encode(note)


def parse_term(payload: bytes, cluster: str = "") -> TermNote:
    """`cluster`: the name of ours. Raises ClusterError 1000, also for the term of another cluster."""
    if len(payload) > MOST_BYTES:
        raise ClusterError(1000, f"a term of {len(payload)} bytes")
    try:
        note = msgspec.json.decode(payload, type=TermNote)
    except RecursionError:
        raise ClusterError(1000, "no term: nested too deeply") from None
    except msgspec.MsgspecError as problem:
        raise ClusterError(1000, f"no term: {problem}") from None
    if cluster and note.cluster and note.cluster != cluster:
        raise ClusterError(1000, "that is the term of another cluster: its name is not ours")
    if not 0 <= note.term <= MOST_TERM:
        raise ClusterError(1000, f"there is no term {note.term}")
    for name in filter(None, (note.node, note.master_name)):
        problem_of_name = node_name_problem(name)
        if problem_of_name is not None:
            raise ClusterError(1000, problem_of_name)
    if note.master and not is_address(note.master):
        raise ClusterError(1000, "the master's address is none")
    return note


def not_leading(note: TermNote) -> ClusterError:
    """The refusal of a hello by a node that does not lead; to be sent back as `err`."""
    master, name = note.master or UNKNOWN, note.master_name or UNKNOWN
    return ClusterError(1000, f"this node does not lead: the master of term {note.term} is {master} ({name})")


def read_refusal(refusal: ClusterError) -> TermNote | None:
    """What a refused hello says about the master; None for any other refusal."""
    found = _NOT_LEADING.fullmatch(refusal.extra or "") if refusal.code == 1000 else None
    if found is None or int(found[1]) > MOST_TERM:
        return None
    master, name = ("" if text == UNKNOWN else text for text in found.group(2, 3))
    if (master and not is_address(master)) or (name and node_name_problem(name) is not None):
        return None
    return TermNote(int(found[1]), False, "", master, name)
