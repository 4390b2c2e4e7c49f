"""Faults of what a node works with: the installed framework, the agent database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clusterd.agent_keys import KEY_FILE, decode_keys, registered_ids
from clusterd.framework import location
from clusterd.settings import Settings
from tools.doctor.finding import Finding

FRAMEWORK = "install the manager's framework, correct clusterd.framework, or set it to off; then restart the node"


def framework(settings: Settings, status: dict[str, Any]) -> Iterator[Finding]:
    """Yields what is wrong with the installed framework: it is missing although it is wanted, it is another version
    than the manager, or it fails."""
    own = settings.clusterd.framework
    if not status["running"]:
        found = location.find(settings)
        if found.is_wrong:
            text = f"{found.why}; {location.REFUSED}"
            yield Finding("framework not found", text, found.cure, is_fault=own.mode == "on")
        return
    shown = status["framework"]
    if shown is None or shown["state"] == "off":
        return
    if shown["state"] == "absent":
        found = location.find(settings)
        if own.mode == "on" or found.is_wrong or found.python:
            text = f"{found.why or shown['reason']}; the node answers by itself"
            yield Finding("framework not found", text, found.cure or FRAMEWORK, is_fault=own.mode == "on")
        return
    found = location.find(settings)
    if shown["state"] == "failed" and found.is_wrong:
        yield Finding("framework not found", f"{found.why}; {location.REFUSED}", found.cure)
    elif shown["state"] == "failed":
        cure = 'clusterd log --grep Framework; without it: "framework": "off" in cluster.json, then restart'
        yield Finding("framework fails", shown["reason"] or "no process of it stays", cure)
    version = (shown.get("version") or "").removeprefix("v")
    if version and version != settings.clusterd.version:
        text = f"the framework is version {version}, this node is {settings.clusterd.version}"
        yield Finding("framework of another version", text, "upgrade both, or correct clusterd.version")
    if shown.get("missing"):
        name, why = next(iter(shown["missing"].items()))
        text = f"{len(shown['missing'])} functions of the framework cannot be used: {name}: {why}"
        yield Finding("framework lacks functions", text, "the node answers these by itself", is_fault=False)


def registrations(settings: Settings, status: dict[str, Any]) -> Iterator[Finding]:
    """Yields, on a master, registered agents of which the agent database knows none, or which have never connected."""
    agents = status["agents"]
    if not settings.is_master or not agents or agents["problem"]:
        return
    keys = Path(settings.root, KEY_FILE)
    count = len(registered_ids(decode_keys(keys.read_bytes()))) if keys.exists() else 0
    states: dict[str, int] = {}
    for counts in agents["nodes"].values():
        for state, number in counts.items():
            states[state] = states.get(state, 0) + number
    known = sum(states.values())
    if count and not known:
        text = f"{keys} has {count} keys, the agent database knows no agent"
        yield Finding(
            "registration without agents", text, "clusterd status: does the store, or wazuh-db, read the keys?"
        )
    elif count and states.get("never_connected", 0) == known:
        text = f"{count} agents are registered, none has ever connected"
        cure = "on an agent: compare its <server> address, and port 1514 of the workers"
        yield Finding("registration without agents", text, cure, is_fault=False)
