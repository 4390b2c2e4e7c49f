"""`clusterd demote`: a former master becomes a worker of the present one, as a function that returns a value
(docs/ha.md)."""

import time

from clusterd import left_behind
from clusterd.config.loading import load
from clusterd.exits import ExitCode
from clusterd.gate import has_node, no_node
from clusterd.net.dial import parse_address
from clusterd.net.term_question import ask_term
from clusterd.pidfile import running_pid
from clusterd.role import NodeRole, RoleChange, RoleDamaged, read_role, standing, update_role, with_change
from clusterd.settings import Settings
from clusterd.status.status import StatusReader
from clusterd.wire.terms import TermNote
from tools.role_follow import POLL_S, RoleOutcome, Say, follow, own_note, refused, tell_supervisor

ASK_S = 10.0
ELECTED = (
    "an election decides who leads here (clusterd.ha.enabled): a former master becomes a worker by itself. clusterd ha "
    "status says what keeps it from it; to hand over: clusterd ha switchover"
)


def prepare(root: str, master: str) -> tuple[RoleOutcome | None, Settings | None, TermNote | None]:
    """Checks that `master` leads, in a term that this node must follow. Returns why not, or what the demotion needs."""
    if not has_node(root):
        return refused(no_node(root), code=ExitCode.NOT_RUNNING), None, None
    loaded = load(root, with_role=False)
    if loaded.settings is None:
        return refused(*map(str, loaded.problems), code=ExitCode.BAD_CONFIGURATION), None, None
    settings = loaded.settings
    try:
        given = read_role(root)
    except RoleDamaged:
        given = None  # this command writes it anew
    else:
        if settings.clusterd.ha.enabled:
            return refused(ELECTED), None, None
    if given is not None and given.change is not None:
        return refused(f"a change of role is under way ({given.change.kind}): see logs/cluster.log"), None, None
    address = parse_address(master, settings.cluster.port)
    answer = ask_term(settings, address, own_note(settings, given), ASK_S)
    note = answer.note
    if note is None:
        return refused(f"{answer.text}. Nothing was changed: a worker needs a master that leads"), None, None
    if note.node == settings.cluster.node_name:
        return refused(f"{address} is this node itself, or another one with its name"), None, None
    if not note.leads:
        where = f"its master of term {note.term} is at {note.master}" if note.master else "it knows no master"
        return refused(f"{note.node} at {address} does not lead: {where}"), None, None
    if note.term == 0:
        cure = "set <node_type>worker</node_type> and <node> in etc/ossec.conf of this node, and restart it"
        return refused(f"{note.node} at {address} leads in no term, it was never promoted: {cure}"), None, None
    now = standing(given, settings.configured.node_type)
    if given is not None and note.term < given.term:
        return refused(f"{note.node} leads in term {note.term}, and this node has seen term {given.term}"), None, None
    if now.role == "master" and given is not None and note.term == given.led:
        cure = "clusterd promote on the one that is to lead, with the other one stopped"
        return refused(f"both nodes lead in term {note.term}: {cure}"), None, None
    if now.role == "worker" and not now.is_deposed and (given is None or given.role != "worker"):
        return refused("this node is a worker: it finds the master by itself"), None, None
    return None, settings, note


def demote(root: str, settings: Settings, note: TermNote, master: str, say: Say, timeout_s: float) -> RoleOutcome:
    """Carries the demotion out, once `prepare` has found nothing against it."""
    address = str(parse_address(master, settings.cluster.port))

    def begin(before: NodeRole | None) -> NodeRole:
        term = note.term if before is None else max(before.term, note.term)
        return with_change(before, RoleChange("demote"), term, address, note.node, "clusterd demote")

    try:
        given = update_role(root, begin, mend=True)
    except (RoleDamaged, OSError) as failure:
        return refused(str(failure))
    say(f"term: {given.term} is on disk, {note.node} at {address} is its master")
    if running_pid(root) is None:
        line = f"clusterd is not running. When it starts it becomes a worker first: clusterd --root {root} start"
        return RoleOutcome(True, given.term, then=[line])
    problem = tell_supervisor(root)
    if problem:
        return refused(f"{problem}; the change is finished at the next start")
    ended, steps, why = follow(root, say, timeout_s)
    if ended is None or ended.role != "worker":
        return RoleOutcome(
            False, given.term, [why or "another change came in between"], steps, code=int(ExitCode.FAILED)
        )
    then = [] if settings.configured.node_type == "worker" else [_edit(address)]
    unequal = _equals(root, timeout_s)
    if unequal:
        then.insert(0, unequal)
    then += [left_behind.told(one) for one in left_behind.shown(root)]
    return RoleOutcome(True, given.term, steps=steps, then=then)


def _edit(address: str) -> str:
    return (
        "Stock programs of this node read etc/ossec.conf, which says master. Before they are restarted: set "
        f"<node_type>worker</node_type> and <node>{parse_address(address, 0).host}</node> there. clusterd needs neither"
    )


def _equals(root: str, timeout_s: float) -> str:
    """Waits until this node has everything that the master has. Returns what is missing."""
    reader, deadline = StatusReader(root), time.monotonic() + timeout_s
    problem = ""
    while time.monotonic() < deadline:
        found = reader.read()
        own = found["results"].get("self") or {}
        if own.get("result") in ("equal", "synced") and not left_behind.unsorted(root):
            return ""
        problem = found["problem"] or own.get("detail") or "no check has ended"
        time.sleep(POLL_S)
    return f"This node does not equal its master yet ({problem}): clusterd --root {root} status"
