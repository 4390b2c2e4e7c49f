"""One line of text for each event of the journal. Pure functions of the events' JSON."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from clusterd.printable import printable
from clusterd.status.verdict import counted
from tools.units import size

Event = Mapping[str, Any]
MOST_FILES = 5
SIGNS = {"added": "+", "changed": "~", "deleted": "-", "withheld": "!"}
# The same as on the dashboard (events.js).
BAD = {"failed", "lost", "refused", "died", "killed", "gave_up"}
DOUBTFUL = {"partial", "limited", "begins", "stepped_down", "etcd_lost", "paused"}
GOOD = {"back", "connected", "ends", "etcd_back", "resumed"}
GAP = "  "


def moment(at: str) -> str:
    """Returns the event's time in the reader's time zone."""
    try:
        return datetime.fromisoformat(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return at[:19]


def colour(event: Event) -> str | None:
    """Returns the style of the line: red for a fault, yellow for a possible one, green for a recovery."""
    word = str(event.get("result") or event.get("what") or "")
    if event["kind"] == "lost" or word in DOUBTFUL or event.get("withheld"):
        return "yellow"
    if word in BAD:
        return "red"
    return "green" if word in GOOD else None


def lines(event: Event, width: int, *, files: int = MOST_FILES) -> list[str]:
    """Returns the event's line, and one for each of its first files. `width`: of the terminal, 0 for no bound."""
    head = f"{moment(str(event['at']))}{GAP}{event['kind']:<12}{GAP}"
    found = [head + printable(TEXTS[event["kind"]](event) if event["kind"] in TEXTS else str(dict(event)))]
    margin = " " * 21
    details = event.get("files", ()) if event["kind"] == "change" else event.get("left_out", ())
    for one in details[:files]:
        found.append(margin + printable(_file(one) if event["kind"] == "change" else f"! {one['path']}: {one['why']}"))
    left = len(details) - files + event.get("unlisted", 0) if len(details) > files else event.get("unlisted", 0)
    if left:
        found.append(f"{margin}and {left} more")
    return [line if not width or len(line) <= width else line[: width - 1] + "…" for line in found]


def _file(one: Mapping[str, Any]) -> str:
    sizes = {
        "added": size(one["size"]),
        "deleted": size(one["size_before"]),
        "withheld": "gone here, kept on the workers",
        "changed": size(one["size"])
        if one["size"] == one["size_before"]
        else f"{size(one['size_before'])} to {size(one['size'])}",
    }
    return f"{SIGNS.get(one['what'], '?')} {one['path']}  {sizes.get(one['what'], '')}"


def _change(event: Event) -> str:
    counts = [f"{event[what]} {what}" for what in SIGNS if event[what]]
    part = f", part {event['part']} of {event['parts']}" if event["parts"] > 1 else ""
    return f"{', '.join(counts)} ({event['source']}, {_span(event['seconds'])}, manifest {event['manifest']}{part})"


def _sync(event: Event) -> str:
    result = "" if event["result"] == "ok" else f" {event['result'].upper()}"
    if event["what"] in ("files", "ahead"):
        amount = f"{counted(event['files'], 'file')}, {size(event['bytes'])}"
    else:
        what = {"groups": "groups of agents", "agents": "reports of agents"}.get(event["what"], event["what"])
        count = f"{event['files']} of " if event["files"] else ""
        amount = f"{what}, {count}{size(event['bytes'])}"
    ahead = ", sent ahead" if event["what"] == "ahead" else ""
    return f"{event['worker']}:{result} {amount} in {_span(event['seconds'])}{ahead}{_because(event)}"


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _because(event: Event) -> str:
    return f": {event['why']}" if event.get("why") else ""


def _at(event: Event) -> str:
    return f" ({event['address']})" if event["address"] else ""


def _by(event: Event) -> str:
    parts = [
        f"through {event['through']}" if event.get("through") else "",
        f"by {event['who']}" if event.get("who") else "",
    ]
    return "".join(f" {part}" for part in parts if part)


def _registration(event: Event) -> str:
    agent = " ".join(word for word in (event["agent"], event["name"]) if word)
    return f"agent {agent} ({event['ip']}) {event['what']}{_by(event)}{_because(event)}"


def _group(event: Event) -> str:
    if event["what"] in ("created", "deleted"):
        return f"group {event['group']} {event['what']}"
    who = f"agent {event['agent']}" if event["agents"] == 1 else f"{event['agents']} agents ({event['agent']})"
    return f"{who}: {event['what']} {'to' if event['what'] == 'assigned' else 'from'} {event['group']}"


def _login(event: Event) -> str:
    words = {"ok": "logged in", "refused": "was refused", "limited": "was not heard, after too many attempts"}
    where = event["address"] or event["through"]
    return (
        f"{event['user'] or 'somebody'} "
        f"{words.get(event['result'], event['result'])}{f' from {where}' if where else ''}"
    )


def _request(event: Event) -> str:
    about = f" ({event['about']})" if event["about"] else ""
    user = f"user {event['user']} " if event["user"] else ""
    return f"{event['function']}{about} asked by {user}through {event['through']}{_because(event)}"


TEXTS: dict[str, Callable[[Event], str]] = {
    "change": _change,
    "sync": _sync,
    "registration": _registration,
    "group": _group,
    "login": _login,
    "request": _request,
    "worker": lambda event: f"{event['worker'] or 'a node'} {event['what']}{_at(event)}{_because(event)}",
    "master": lambda event: (
        f"the master {event['what']}{' (' + event['master'] + ')' if event['master'] else ''}{_because(event)}"
    ),
    "problem": lambda event: f"{event['what']}: {event['text'] or event['subject']}",
    "process": lambda event: f"{event['process']} (pid {event['pid']}) {event['what']}{_because(event)}",
    "reload": lambda event: (
        f"changed: {', '.join(event['changed']) or 'nothing'}"
        + (f"; waiting for a restart: {', '.join(event['needs_restart'])}" if event["needs_restart"] else "")
    ),
    "election": lambda event: (
        f"{event['what'].replace('_', ' ')}, term {event['term']}"
        f"{', leader ' + event['leader'] if event['leader'] else ''}{_because(event)}"
    ),
    "lost": lambda event: f"{event['count']} events of {event['process']} could not be told",
}


def parse_moment(text: str, now: float) -> float | None:
    """Returns wall-clock seconds: 90s, 10m, 2h or 3d ago, or a date, with or without a time (in this machine's zone
    unless it names one). None for anything else."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = text[:-1], text[-1:]
    if unit in units and number.isascii() and number.replace(".", "", 1).isdigit() and len(number) < 10:
        return now - float(number) * units[unit]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def now() -> float:
    return time.time()
