"""`clusterd promote`: a worker becomes the master by hand, as a function that returns a value (docs/ha.md)."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from clusterd.config.loading import load, missing_files
from clusterd.exits import ExitCode
from clusterd.gate import has_node, no_node
from clusterd.listening.addresses import look_up
from clusterd.net.dial import Address, parse_address
from clusterd.net.term_question import TermAnswer, ask_term
from clusterd.pidfile import running_pid
from clusterd.role import NodeRole, RoleChange, RoleDamaged, update_role, with_change
from clusterd.settings import Settings
from clusterd.status.absence import not_running
from clusterd.status.status import StatusReader
from clusterd.status.verdict import verdict
from tools.role_follow import POLL_S, RoleOutcome, Say, follow, own_address, own_note, refused, tell_supervisor

ASK_S = 5.0
ELECTED = (
    "an election decides who leads here (clusterd.ha.enabled). To hand over without a loss: clusterd ha switchover "
    "--to NODE. To make a node lead that would not by itself: clusterd ha failover --to NODE --force"
)
DOWN_FIRST = (
    "--old-master-is-down is missing: two masters at a time lose changes of one of them. Make sure that the old master "
    "is off, or cannot reach anybody, and say so"
)


class PromoteOptions(msgspec.Struct, frozen=True):
    """Options of the command."""

    is_down: bool = False
    without_agents: bool = False
    unchecked_files: bool = False
    address: str = ""
    timeout_s: float = 120.0


def prepare(root: str, wanted: PromoteOptions) -> tuple[RoleOutcome | None, Settings | None, int]:
    """Checks whether this node may lead. Returns why not, or its settings and the highest term that any node knows."""
    if not has_node(root):
        return refused(no_node(root), code=ExitCode.NOT_RUNNING), None, 0
    loaded = load(root)
    if loaded.settings is None:
        return refused(*map(str, loaded.problems), code=ExitCode.BAD_CONFIGURATION), None, 0
    settings = loaded.settings
    if settings.clusterd.ha.enabled:
        return refused(ELECTED), None, 0
    if running_pid(root) is None:
        more = ": it finishes the change that was begun" if settings.role and settings.role.change else ""
        return refused(f"{not_running(root)}{more}", code=ExitCode.NOT_RUNNING), None, 0
    status = StatusReader(root).read()
    if status["peers"] is None or status["node"] is None:
        return refused(f"the node does not answer: {status['problem']}"), None, 0
    if status["node"]["type"] == "master":
        return refused(f"this node is {status['node']['role']}: nothing to do"), None, 0
    if settings.role is not None and settings.role.change is not None:
        return refused(f"a change of role is under way ({settings.role.change.kind}): see logs/cluster.log"), None, 0
    answers = [(address, _ask(settings, address)) for address in _masters(settings)]
    reasons = [*_of_the_old(status, answers, wanted), *_of_files(status, wanted)]
    reasons += [*_of_agents(status, wanted), *_of_this_node(settings)]
    if reasons:
        return refused(*reasons), None, 0
    terms = [answer.note.term for _, answer in answers if answer.note is not None]
    return None, settings, max([*terms, settings.role.term if settings.role is not None else 0])


def _masters(settings: Settings) -> list[Address]:
    """Returns the addresses at which a master may be."""
    given, port = settings.role, settings.cluster.port
    nodes = [*settings.configured.nodes]
    if given is not None:
        nodes += [node for node in (given.master, *given.former) if node]
    return list(dict.fromkeys(parse_address(node, port) for node in nodes))


def _ask(settings: Settings, address: Address) -> TermAnswer:
    return ask_term(settings, address, own_note(settings, settings.role), ASK_S)


def _of_the_old(
    status: dict[str, Any], answers: list[tuple[Address, TermAnswer]], wanted: PromoteOptions
) -> Iterator[str]:
    """Returns the signs that a master is alive."""
    if not wanted.is_down:
        yield DOWN_FIRST
    linked = [peer["name"] for peer in status["peers"] if peer["kind"] == "master"]
    if linked:
        yield f"the master at {linked[0]} is connected: stop it there, or leave it the master"
    for address, answer in answers:
        if str(address) in linked:
            continue
        if answer.note is not None and answer.note.leads:
            cure = "stop it there, or leave it the master"
            yield f"{answer.note.node} at {address} answers and leads in term {answer.note.term}: {cure}"
        elif answer.kind == "silent":
            yield f"{answer.text}: it may be frozen and wake up. Stop it, or take its machine off the network"
        elif answer.kind in ("unknown", "key"):
            yield f"{answer.text}: stop what listens there, or correct <nodes> in etc/ossec.conf of this node"


def _of_files(status: dict[str, Any], wanted: PromoteOptions) -> Iterator[str]:
    """All nodes get the files of a master: files that it lacks would be deleted on all of them."""
    own = status["results"].get("self") or {}
    result, problems = own.get("result"), own.get("problems") or {}
    is_complete = own.get("complete", result in ("equal", "synced"))  # a node of an earlier version does not say
    cure = "promote another worker; or, if they are complete: --unchecked-files"
    if wanted.unchecked_files:
        return
    if problems:
        path, why = next(iter(problems.items()))
        yield f"this node's files are incomplete: {path}: {why}. {cure}"
    elif result is None and not is_complete:
        yield "no check of this node's files has ended yet: whether they are complete is not known. " + cure
    elif result == "partly" or not is_complete:
        yield f"this node's files are incomplete: its last sync: {result} {own.get('detail') or ''}. {cure}"
    elif any(sync["kind"].startswith("integrity") for sync in status["syncs"]):
        yield f"this node's files are incomplete: a sync is under way. {cure}"


def _of_agents(status: dict[str, Any], wanted: PromoteOptions) -> Iterator[str]:
    if wanted.without_agents:
        return
    ha = status.get("ha")
    loss = (
        "promote a candidate; or --without-agents: then agents keep their keys (client.keys), and their groups, labels "
        "and states are those that this node has seen, the logins of the REST API are this node's own, and ids that "
        "were given and deleted may be given again"
    )
    if ha is None:
        yield f"this node has no replica of the agents (clusterd.ha.replica is off): {loss}"
    elif ha.get("may_not_lead") or "position" not in ha:
        yield f"{ha.get('may_not_lead') or ha.get('problem') or 'there is no replica'}: {loss}"
    elif ha.get("lag"):
        yield f"the replica is {ha['lag']} changes behind what the old master had: {loss}"


def _of_this_node(settings: Settings) -> Iterator[str]:
    """Returns what a master needs and this node lacks."""
    leading = settings.with_role(NodeRole(1, "master", 1, "127.0.0.1"))
    yield from (str(problem) for problem in missing_files(leading))
    if settings.role is not None and (settings.role.role or settings.is_deposed):
        return  # its net listens there already
    cluster = settings.cluster
    try:
        found = look_up(cluster.bind_addr, cluster.port, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        with socket.socket(family, kind, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(where)
    except OSError as failure:
        yield f"port {cluster.port} of {cluster.bind_addr} cannot be used ({failure.strerror}): see <port>, <bind_addr>"


def promote(root: str, settings: Settings, highest: int, wanted: PromoteOptions, say: Say) -> RoleOutcome:
    """Carries the promotion out, once `prepare` has found nothing against it."""
    masters = _masters(settings)
    address = wanted.address or own_address(settings, masters)
    address = str(parse_address(address, settings.cluster.port))
    former = tuple(node for node in map(str, masters) if node != address)
    term = 0

    def begin(before: NodeRole | None) -> NodeRole:
        nonlocal term
        term = max(highest, 0 if before is None else before.term) + 1
        change = RoleChange("promote", without_agents=wanted.without_agents)
        return with_change(before, change, term, address, settings.cluster.node_name, "clusterd promote", former)

    try:
        update_role(root, begin)
    except (RoleDamaged, OSError) as failure:
        return refused(str(failure))
    say(f"term: {term} is on disk")
    problem = tell_supervisor(root)
    if problem:
        return refused(f"{problem}; the change is finished at the next start")
    given, steps, why = follow(root, say, wanted.timeout_s)
    if given is None or given.led != term:
        return RoleOutcome(False, term, [why or "another change came in between"], steps, code=int(ExitCode.FAILED))
    serving = _serves(root, wanted.timeout_s)
    if serving:
        return RoleOutcome(False, term, [serving], steps, code=int(ExitCode.FAILED))
    return RoleOutcome(True, term, steps=steps, then=_then(root, settings, given, address))


def _serves(root: str, timeout_s: float) -> str:
    """Waits until the node serves as master. Returns why it does not."""
    reader, deadline = StatusReader(root), time.monotonic() + timeout_s
    found: dict[str, Any] = {}
    while time.monotonic() < deadline:
        found = reader.read()
        if not found["running"]:
            return f"the node has ended: see logs/cluster.log, then clusterd --root {root} start"
        if found["peers"] is not None and found["node"]["type"] == "master" and found["node"]["serving"]:
            return ""
        time.sleep(POLL_S)
    return f"it does not serve as master within {timeout_s:g} s: {verdict(found).reason if found else ''}"


def _then(root: str, settings: Settings, given: NodeRole, address: str) -> list[str]:
    lines = []
    if settings.configured.node_type != "master":
        lines.append(
            "Stock programs of this node read etc/ossec.conf, which says worker. Before they are restarted: set "
            f"<node_type>master</node_type> and <node>{parse_address(address, 0).host}</node> there. "
            "clusterd needs neither"
        )
    lines.append(
        f"clusterd workers with this node in <nodes> come by themselves. For the others, and all stock workers, move "
        f"the virtual address or the DNS name of the old master to {address}, or write it into their <nodes>"
    )
    if given.former:
        lines.append(
            f"The old master ({', '.join(given.former)}) serves nobody once it hears of term {given.term}. When it is "
            f"back: clusterd demote --master {address} there"
        )
    lines.append(f"clusterd --root {root} status shows who has come")
    return lines
