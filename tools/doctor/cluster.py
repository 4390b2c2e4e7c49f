"""Faults between nodes: the status of the running node, and the result of a try at the master's port."""

import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from clusterd.config.loading import CLUSTER_JSON
from clusterd.errors import ClusterError
from clusterd.net.dial import parse_address
from clusterd.net.term_question import ask_term
from clusterd.settings import Settings
from clusterd.status.control import NotAnswering
from clusterd.status.verdict import ADVICE, LAG_S, LOSSES, apart, count_files, is_apart, span
from clusterd.store.advice import LOCKED
from tools import syncing
from tools.doctor.files import DAMAGED
from tools.doctor.finding import Finding
from tools.doctor.system import stale_pid_files
from tools.probe import Probed, probe
from tools.role_follow import own_note

MOST = 5
CURES = {
    "mount": "unmount {path} on {name}, or mount its directory instead",
    "link": "on {name}: put the target's directory into clusterd.link_targets, or a copy in the place of {path}",
    "not utf-8": "rename {path} on {name}",
    "permission denied": "on {name}: give {path} and its directory to the user that the node runs as",
    "operation not permitted": "on {name}: lsattr {path}; chattr -i {path}",
    "no space": "make room on the disk of {name}",
    "read-only": "on {name}: mount -o remount,rw the disk of {path}",
    "too large": "raise max_zip_size or clusterd.limits, or take {path} out of the synchronised directory",
}
"""By words of the reason: what to do. The first one that fits counts."""

ASK_S = 5.0
LONG_SILENCE_S = 10.0
MASTERS = {
    "address": (
        "address does not resolve",
        "correct the name in /etc/hosts or DNS, or <node> in ossec.conf and then: clusterd restart",
    ),
    "route": (
        "no route",
        "in this node's own network: is the machine on, is that its address? Else: ip route get ADDRESS; firewalls",
    ),
    "port": (
        "closed port",
        "on the master: clusterd start; are its <port> and <bind_addr> what <node> and <port> here say?",
    ),
    "time-out": ("firewall", "let this node through to that port of the master; is the machine on?"),
    "silent": ("master does not answer", "clusterd doctor on the master; it may hang, or a balancer may stand between"),
    "tls": ("no TLS", "set clusterd.tls alike on both nodes, then on the changed one: clusterd restart"),
    "certificate": (
        "certificate refused",
        "expired: a new clusterd.tls.cert on the master, then there: clusterd restart; else correct ca or server_name "
        "of clusterd.tls here, then: clusterd restart",
    ),
    "key": ("wrong key", "give both nodes the same <key>, then on the changed one: clusterd restart"),
    "protocol": ("not a cluster port", "correct <port> or <node> in ossec.conf, then: clusterd restart"),
    "led": ("refused by the master", "clusterd ha status there; add the address of the master to <nodes> here"),
}
REFUSALS = {
    "wrong cluster": "give both nodes the same <name> in <cluster>, then on the changed one: clusterd restart",
    "wrong version": "give both nodes the same release and the same clusterd.version, or see clusterd.version_rule",
    "duplicate name": "give one of the two nodes another <node_name>, then there: clusterd restart",
    "wrong key": MASTERS["key"][1],
    "invalid hello": "there: <node_name> of letters, digits, '.', '_', '-'; <name> without spaces; then restart it",
    "refused by this node": "clusterd ha status says who leads; the log of this node has more",
}
REFUSED = (
    ("printable words", "invalid hello"),
    ("cluster name ", "wrong cluster"),
    ("version ", "wrong version"),
    ("under this name", "duplicate name"),
    ("own name", "duplicate name"),
    ("with our key", "wrong key"),
    ("node name", "invalid hello"),
)
CODES = {
    3028: ("duplicate name", REFUSALS["duplicate name"]),
    3029: ("duplicate name", "give this node another <node_name> than the master's, then: clusterd restart"),
    3030: ("wrong cluster", REFUSALS["wrong cluster"]),
    3031: ("wrong version", REFUSALS["wrong version"]),
}


def master_of(settings: Settings, status: dict[str, Any]) -> Iterator[Finding]:
    """Tells why a worker has no link to its master, or would have none with what its files say now."""
    if settings.is_master:
        return
    if any(peer["kind"] == "master" for peer in status["peers"] or []):
        if _were_changed(settings, status):
            yield from _without_hello(
                settings, "it is connected, and will not be after a restart, by what its files say now: "
            )
        return
    if status["running"] and status["peers"] is None:
        yield from _without_hello(settings, "")  # it does not say whether it is connected
        return
    lower = list(_of_lower_terms(settings))
    if lower:
        yield from lower
        return
    found = [probe(settings, parse_address(node, settings.cluster.port)) for node in settings.cluster.nodes]
    if not any(one.kind == "ok" for one in found):
        # A candidate that does not lead is no fault where another address says what is.
        yield from (_finding(one) for one in [one for one in found if one.kind != "led"] or found)
    elif status["running"] and status["problem"]:
        yield _not_linked(settings, status)


def _not_linked(settings: Settings, status: dict[str, Any]) -> Finding:
    """The master takes a node with these files, and the running node is not connected."""
    if _were_changed(settings, status):
        text = f"the master takes a node with these files, and they were changed since the start: {status['problem']}"
        return Finding("files are not in use", text, "clusterd restart")
    text = f"the master takes this node, which has not dialled again yet: {status['problem']}"
    return Finding("not connected yet", text, "nothing: it dials within 20 s; if it does not, clusterd restart", False)


def _were_changed(settings: Settings, status: dict[str, Any]) -> bool:
    """Whether the node was started before its files were changed."""
    paths = [Path(settings.root, relative) for relative in ("etc/ossec.conf", CLUSTER_JSON)]
    return any(path.exists() and path.stat().st_mtime > (status["started_at"] or 0.0) for path in paths)


def _without_hello(settings: Settings, when: str) -> Iterator[Finding]:
    """Tries addresses, TLS and key of a node that is connected, or may be. It asks for the term: a hello would be
    refused by the master, which shows that, because the node's name is taken by itself."""
    own = own_note(settings, settings.role)
    answers = [
        ask_term(settings, parse_address(node, settings.cluster.port), own, ASK_S) for node in settings.cluster.nodes
    ]
    if any(one.kind in ("known", "unknown") for one in answers):
        return
    for one in answers:
        name, cure = MASTERS["port" if one.kind == "closed" else one.kind]
        yield Finding(name, f"{when}{one.text}", cure.partition(", then")[0].partition(" and then")[0])


def _of_lower_terms(settings: Settings) -> Iterator[Finding]:
    """Yields nodes that would be this node's master, and are refused because it has seen a higher term."""
    given = settings.role
    if given is None:
        return
    own = own_note(settings, given)
    for node in settings.cluster.nodes:
        answer = ask_term(settings, parse_address(node, settings.cluster.port), own, ASK_S)
        note = answer.note
        if answer.kind == "unknown" or (note is not None and note.leads and note.term < given.term):
            text = f"{node} leads in a lower term than {given.term}, whose master is {given.master or 'unknown'}"
            yield Finding("master of a lower term", text, f"there: clusterd demote --master {given.master or 'HOST'}")


def _finding(found: Probed) -> Finding:
    if found.kind == "refused":
        name, cure = CODES.get(found.code, ("refused by the master", "see the log of the master"))
    else:
        name, cure = MASTERS[found.kind]
    return Finding(name, found.text, cure)


def node(status: dict[str, Any]) -> Iterator[Finding]:
    """Yields the faults that a running node reports."""
    if not status["running"]:
        text = status["problem"].partition(" Start it with")[0]  # the cure says that
        cure = f"clusterd --root {status['root']} start"
        was_killed = bool(stale_pid_files(status["root"]))
        if was_killed:
            text += " It was not stopped: it was killed, or the machine was"
            cure = f"dmesg and logs/clusterd-crash.log may say why; {cure}"
        yield Finding("not running", text, cure, is_fault=was_killed)
        return
    if status["peers"] is None:
        cure = "clusterd log --level warning; logs/clusterd-crash.log; if it stays so: clusterd restart"
        silent = [row for row in status["processes"] if (row["silent_s"] or 0.0) >= LONG_SILENCE_S]
        which = ", ".join(f"{row['name']} (pid {row['pid']}) is silent for {span(row['silent_s'])}" for row in silent)
        yield Finding("node does not answer", "; ".join(filter(None, (status["problem"], which))), cure)
        return
    if (status["node"].get("term") or {}).get("is_deposed"):
        yield Finding("leads no more", status["problem"], "see docs/ha.md")
    for subject, text in status["problems"].items():
        yield _of_problem(status["root"], subject, text)
    waiting = status["node"].get("needs_restart")
    if waiting:
        text = f"changed since the start, and not in use: {', '.join(waiting)}"
        yield Finding("settings wait for a restart", text, "clusterd restart", is_fault=False)
    manifest = status["manifest"] or {}
    if manifest.get("failure"):
        yield Finding("scan fails", manifest["failure"], "make the directory readable; the next scan comes by itself")
    if manifest.get("withheld") and not any(subject in status["problems"] for subject in LOSSES):  # that says it, too
        text = f"{count_files(manifest['withheld'])} lost at once, kept on the workers"
        yield Finding("deletions wait", text, PUT_BACK)
    if manifest.get("unwatched"):
        is_limit = "limit" in manifest["unwatched"]
        cure = "as the text says, then: clusterd reload" if is_limit else "nothing: scans walk the whole tree instead"
        yield Finding("files are not watched", manifest["unwatched"], cure, is_fault=False)
    agents = status["agents"]
    if agents and agents["problem"] and "store" not in status["problems"]:  # that says why
        is_slow = "no answer within" in agents["problem"] or "locked" in agents["problem"]
        name = "store locked" if is_slow else "no agent database"
        yield Finding(
            name,
            f"the agent database does not answer: {agents['problem']}",
            NO_AGENTS_CURES[name].format(root=status["root"]),
        )


PUT_BACK = "put the files back; if they are meant to be gone: clusterd sync --allow-delete"
MAKE_ROOM = "make room, or lower disk_reserve_bytes and disk_reserve_share of clusterd.limits; then clusterd reload"
NO_AGENTS_CURES = {
    "store locked": "lsof {root}/queue/db/global.db names who has it open: end what is not clusterd, or wait for it",
    "no agent database": "with a manager: start its wazuh-db; else clusterd log --grep Store, and clusterd.store",
}
STORE_CURE = "what the text says; lsof {root}/queue/db/global.db names who has it open; it is tried again every 5 s"
PROBLEM_CURES = {
    "rights": 'see Owner in docs/operations/install.md; if root is meant, set clusterd.owner to "root"',
    "build": "clusterd restart, when it suits; clusterd version says what is installed",
    "adoption": "clusterd adopt --now; or clusterd adopt --undo, if the stock daemon is to stay",
    "agent keys": "put etc/client.keys of any worker back; if they are meant to be gone: clusterd sync --allow-delete",
    "store": DAMAGED,
    "log": "what the text says; the log goes on by itself",
    "spool": "ls -ld queue/cluster/.clusterd/spool; df -i; dmesg",
    "disk": MAKE_ROOM,
    "room for files": MAKE_ROOM,
    "room of ": "make room on the disk of that worker",
    "files that have vanished": PUT_BACK,
    "framework": "clusterd log --grep Framework",
    "election": "clusterd ha status; docs/ha.md, When something is wrong",
    "registrations": "clusterd ha status says which candidate is missing, or that this node does not lead",
    "replica": "what the text says; clusterd ha status",
    "mounted files": "mount the directory instead of the file, where you can",
    "supervisor": "as the text says; then: clusterd restart",
    "monitor": "what the text says (port: clusterd.monitor.port, then clusterd restart); it is tried again every 5 s",
}
"""What to do, by the subject of a problem or the words with which the subject begins. The node itself reports when a
problem is over."""
PROBLEMS = {
    "store": "database damaged",
    "build": "upgrade waits for a restart",
    "log": "log cannot be written",
    "spool": "spool cannot be used",
    "supervisor": "unreadable program",
    "files that have vanished": "deletions wait",
    "mounted files": "mounted file",
}
"""Subjects of `problems` that have a plainer name here."""


def _of_problem(root: str, subject: str, text: str) -> Finding:
    if subject == "store" and "clusterd store renew" not in text:
        return Finding("store locked" if LOCKED in text else "store cannot be used", text, STORE_CURE.format(root=root))
    name = PROBLEMS.get(subject, subject)
    for word, cure in PROBLEM_CURES.items():
        if subject.startswith(word):
            return Finding(name, text, cure, is_fault=subject not in ADVICE)
    return Finding(name, text, "see docs/operations/troubleshooting.md", is_fault=subject not in ADVICE)


def workers(root: str, status: dict[str, Any]) -> Iterator[Finding]:
    """Yields, on a master, workers that are lost, refused or behind."""
    for row in status["workers"]:
        if row["state"] == "lost":
            text = f"{row['name']} ({row['address']}) is LOST for {span(row['lost_s'])}"
            yield Finding("worker lost", text, f"start it there, or: clusterd forget {shlex.quote(row['name'])}")
    for row in status["refused"]:
        name = _refusal(row["reason"])
        text = f"{row['name'] or 'a node'} at {row['address']}: {row['reason']}"
        cure = REFUSALS[name]
        if name == "duplicate name":
            cure += f"; here: clusterd forget {shlex.quote(row['name'])}"
        yield Finding(name, text, cure)
    for name, row in status["results"].items():
        if name == "self" or row["result"] == "lost":
            continue
        if row["lag_s"] is not None and row["lag_s"] >= LAG_S:
            kept_out = status["left_out"].get(name)
            why = row["detail"] or (kept_out and syncing.left_out_text(kept_out)) or row["result"] or "not checked yet"
            text = f"{name} has been behind for {span(row['lag_s'])}: {why}"
            yield Finding("worker behind", text, f"clusterd diff {shlex.quote(name)}; its log says why")
            yield from _keys(root, name)
        for path, why in list(row["problems"].items())[:MOST]:
            yield Finding("file not sent", f"{path} to {name}: {why}", _cure(path, why, "this node"))


def left_out(status: dict[str, Any]) -> Iterator[Finding]:
    """Yields the files that a node leaves out: this one, or one that has told it so. A worker does not answer for its
    master."""
    own = status["node"]["name"]
    for name, row in status["left_out"].items():
        if name != own and status["node"]["type"] != "master":
            continue
        for path, why in list(row["files"].items())[:MOST]:
            yield Finding("file left out", f"{path} on {name}: {why}", _cure(path, why, name))
        if row["count"] > MOST:
            text = f"{row['count'] - MOST} more files on {name}"
            yield Finding("file left out", text, f"clusterd --root ROOT status, on {name}")


def _cure(path: str, why: str, name: str) -> str:
    """Returns what to do about one file, by words of the reason."""
    for word, cure in CURES.items():
        if word in why.lower():
            return cure.format(path=path, name=name)
    return f"look at {path} on {name}"


def clocks(status: dict[str, Any]) -> Iterator[Finding]:
    """Yields nodes whose wall clock differs from this node's. Both times are named: nobody knows yet which is right."""
    for name, row in status["clocks"].items():
        if is_apart(row):
            theirs, ours = (
                datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S") for at in (row["at"] + row["offset_s"], row["at"])
            )
            text = f"{apart(name, row['offset_s'])}: {theirs} UTC there, {ours} UTC here"
            yield Finding("clock difference", text, "date -u on both; then set the wrong one (chronyc makestep)")


def _refusal(reason: str) -> str:
    """The key of REFUSALS, by words of the reason (clusterd/net/hello.py)."""
    if reason.startswith(("not enough values", "too many values")):
        return "invalid hello"  # a space in a name is one word too many
    for words, name in REFUSED:
        if words in reason:
            return name
    return "refused by this node"


def _keys(root: str, name: str) -> Iterator[Finding]:
    try:
        found = syncing.difference(root, name)
    except (NotAnswering, ClusterError):
        return
    if any("etc/client.keys" in found[group] for group in ("missing", "shared")):
        cure = f"end what keeps {name} behind, as above: its next check brings them; until then some agents may fail"
        yield Finding("keys differ", f"{name} has other agent keys than this master", cure)
