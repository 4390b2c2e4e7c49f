"""`clusterd ha switchover`, `failover`, `pause`, `resume`, `bootstrap`, `forget`: gives an order to this node's
election and watches until it is carried out, as a function that returns a value (docs/ha.md)."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from clusterd.config.loading import load
from clusterd.errors import ClusterError
from clusterd.exits import ExitCode
from clusterd.messages.election import HaAnswer, HaCommand
from clusterd.net.dial import parse_address
from clusterd.net.term_question import ask_term
from clusterd.pidfile import running_pid
from clusterd.settings import Settings
from clusterd.status.absence import not_running
from clusterd.wdb.election import ElectionPort
from tools.role_follow import own_note

ASK_S = 20.0
"""The election asks etcd, and may have to try several members."""
TERM_S = 5.0
POLL_S = 0.1
OFF = (
    "there is no election on this node: clusterd.ha.enabled is off, or its agent database is served by another program"
)


class OrderOutcome(msgspec.Struct, frozen=True):
    """The result, also for programs. `text`: what was done, or why it was not and what to do."""

    ok: bool
    text: str
    leader: str | None = None
    term: int | None = None
    code: int = int(ExitCode.OK)


def ask_election(root: str, command: HaCommand, timeout_s: float = ASK_S) -> HaAnswer:
    """Asks the election of this node. Raises ClusterError with the reason if it does not answer."""
    return asyncio.run(ElectionPort(root).command(command, timeout_s))


def election_facts(root: str, timeout_s: float = ASK_S) -> dict[str, Any] | None:
    """Returns the state of this node's election; None if there is none, or it does not answer."""
    try:
        return ask_election(root, HaCommand("status"), timeout_s).facts
    except ClusterError:
        return None


def carry_out(root: str, command: HaCommand, timeout_s: float, say: Callable[[str], None]) -> OrderOutcome:
    """Gives the order and waits until it has ended."""
    deadline = time.monotonic() + timeout_s
    if running_pid(root) is None:  # also where there is no node at all
        return _refused(not_running(root), ExitCode.NOT_RUNNING)
    loaded = load(root)
    if loaded.settings is None:
        return _refused("; ".join(map(str, loaded.problems)), ExitCode.BAD_CONFIGURATION)
    if not loaded.settings.clusterd.ha.enabled:
        return _refused(OFF)
    if command.kind == "bootstrap":
        highest, silent = _highest_term(root, loaded.settings)
        if silent and not command.force:
            return _refused(
                f"{', '.join(silent)} does not say which term it has seen, and this one must be higher. Start it; or, "
                "if it is gone for good: --force"
            )
        command = msgspec.structs.replace(command, term=highest)
    try:
        answer = ask_election(root, command, min(ASK_S, timeout_s))
    except ClusterError as failure:
        return _refused(failure.extra or str(failure))
    if not answer.ok:
        return _refused(answer.text)
    if answer.text:
        return OrderOutcome(True, answer.text, answer.facts.get("leader"), answer.facts.get("term"))
    say(_begun(command, answer.facts))
    while time.monotonic() < deadline:
        found = election_facts(root, max(0.1, deadline - time.monotonic()))
        ended = None if found is None else _ended(command, answer.facts, found)
        if ended is not None:
            return ended
        time.sleep(POLL_S)
    return _refused(f"not done within {timeout_s:g} s: clusterd ha status says how far it is", ExitCode.TIMED_OUT)


def _refused(text: str, code: ExitCode = ExitCode.FAILED) -> OrderOutcome:
    return OrderOutcome(False, text, code=int(code))


def _begun(command: HaCommand, facts: dict[str, Any]) -> str:
    if command.kind in ("pause", "resume"):
        return f"etcd has it; waiting for {facts['leader'] or 'the leader'}"
    return f"the order is in etcd; waiting for {facts['to'] or 'the next leader'}"


def _ended(command: HaCommand, begun: dict[str, Any], now: dict[str, Any]) -> OrderOutcome | None:
    """Returns how the order ended; None while it is under way."""
    leader, term, order = now["leader"], now["term"], now["order"]
    if command.kind == "pause":
        done = now["paused"] and not now["has_lease"]
        return OrderOutcome(True, f"Paused: {leader} leads until clusterd ha resume.", leader, term) if done else None
    if command.kind == "resume":
        done = not now["paused"] and now["has_lease"]
        return OrderOutcome(True, f"Resumed: {leader} leads in term {term}.", leader, term) if done else None
    if order is not None and order["id"] == begun.get("id") and order["refused"]:
        return _refused(f"not done: {order['refused']}")
    if now["serves"] and leader and (term or 0) > begun["term"]:
        to = begun["to"]
        if to and leader != to:
            return OrderOutcome(
                False,
                f"{leader} leads in term {term}: {to} did not take over in time; its log says why",
                leader,
                term,
                int(ExitCode.FAILED),
            )
        return OrderOutcome(True, f"{leader} leads in term {term}.", leader, term)
    return None


def _highest_term(root: str, settings: Settings) -> tuple[int, list[str]]:
    """Asks the nodes that this one knows for their terms. Returns the highest term, and the nodes that did not
    answer."""
    given, own = settings.role, settings.clusterd.ha.advertise
    facts = election_facts(root) or {"candidates": []}
    nodes = [*settings.configured.nodes, *(row["advertise"] for row in facts["candidates"])]
    if given is not None:
        nodes += [node for node in (given.master, *given.former) if node]
    addresses = dict.fromkeys(parse_address(node, settings.cluster.port) for node in nodes)
    addresses.pop(parse_address(own, settings.cluster.port), None)
    note = own_note(settings, given)
    answers = {str(address): ask_term(settings, address, note, TERM_S) for address in addresses}
    terms = [answer.note.term for answer in answers.values() if answer.note is not None]
    silent = [where for where, answer in answers.items() if answer.note is None and answer.kind != "unknown"]
    return max([note.term, *terms]), silent
