"""The manager of a node: its description, its daemons, its log (dapi.md 5.2, 5.4, 5.5)."""

import os
import re
import time
from pathlib import Path
from typing import Any

import msgspec

from clusterd.dapi.files.daemons import daemon_states
from clusterd.dapi.files.manager_uuid import manager_uuid
from clusterd.dapi.protocol.actions import THIS_NODE
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Call, NoArguments, Registry
from clusterd.dapi.query.arrays import ListArguments, Shape, cut_list
from clusterd.wire.results import WireException

registry = Registry()
LOG_LINES = 2000
MOST_LOG_BYTES = 4 * 1024 * 1024
"""Bytes at the end of the log that are read: 2,000 lines of the usual length. The whole file may have gigabytes."""
LEVELS = ("DEBUG", "INFO", "CRITICAL", "ERROR", "WARNING")
# With bounds: a line of brackets alone, as a program may be made to log it, would take minutes otherwise.
_LINE = re.compile(
    r"(?P<date>\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) (?P<tag>\S{1,200}?)(?:\[[^\]]{0,200}\])?: "
    rf"(?P<level>{'|'.join(LEVELS)}):(?P<description>.*)"
)
LOG_FIELDS = ("timestamp", "tag", "level", "description")
READ = ("was successfully read", "could not be read in some nodes", "could not be read in any node")


class LogArguments(ListArguments, frozen=True):
    tag: str | None = None
    level: str | None = None


@registry.function("wazuh.manager", "get_basic_info", needs=(THIS_NODE,))
def get_basic_info(call: Call, given: NoArguments) -> Items:
    """Returns version, paths and time zone; `uuid` on a master only."""
    settings = call.settings
    item = {
        "path": settings.root,
        "version": f"v{settings.clusterd.version}",
        "type": "server",
        "max_agents": "unlimited",
        "openssl_support": "yes",
        "tz_offset": time.strftime("%z"),
        "tz_name": time.strftime("%Z"),
        "uuid": manager_uuid(settings.root) if settings.is_master else None,
    }
    return _read("Basic information", item)


@registry.function("wazuh.manager", "get_status", checks_daemons=False, needs=(THIS_NODE,))
def get_status(call: Call, given: NoArguments) -> Items:
    """Returns the state of each daemon."""
    return _read(
        "Processes status", daemon_states(call.root, serves_store=call.settings.serves_store), name="Processes status"
    )


@registry.function("wazuh.core.manager", "status", checks_daemons=False, needs=(THIS_NODE,))
def status(call: Call, given: NoArguments) -> dict[str, str]:
    """Returns the state of each daemon, in the form in which nodes ask each other."""
    return daemon_states(call.root, serves_store=call.settings.serves_store)


@registry.function("wazuh.manager", "ossec_log", checks_daemons=False, needs=(THIS_NODE,))
def ossec_log(call: Call, given: LogArguments) -> Items:
    """Returns lines of the manager's log, the newest first. Raises WireException 1020 without a log."""
    words = {"tag": given.tag, "level": given.level.lower() if given.level else None}
    conditions = [f"{name}={word}" for name, word in words.items() if word and word != "all"]
    found, total = cut_list(
        log_lines(call.root),
        msgspec.structs.replace(
            given,
            sort_by=given.sort_by or ["timestamp"],
            sort_ascending=given.sort_ascending if given.sort_by else False,
            q=";".join([*conditions, *([given.q] if given.q else [])]) or None,
        ),
        Shape(sort_fields=LOG_FIELDS, select_fields=LOG_FIELDS),
    )
    items = _read("Logs", None)
    items.affected, items.total = found, total
    return items


@registry.function("wazuh.manager", "ossec_log_summary", checks_daemons=False, needs=(THIS_NODE,))
def ossec_log_summary(call: Call, given: NoArguments) -> Items:
    """Returns the number of lines of each level, by tag. Raises WireException 1020 without a log."""
    tags: dict[str, dict[str, int]] = {}
    for line in log_lines(call.root):
        counts = tags.setdefault(
            line["tag"], dict.fromkeys(("all", "info", "error", "critical", "warning", "debug"), 0)
        )
        counts["all"] += 1
        counts[line["level"]] += 1
    items = _read("Log summary", None)
    items.affected = [{tag: tags[tag]} for tag in sorted(tags)]
    return items


def _read(what: str, item: dict[str, Any] | None, name: str = "") -> Items:
    shown = name or what
    return Items(*(f"{shown} {text}" for text in READ), affected=[] if item is None else [item])


def log_lines(root: str) -> list[dict[str, str]]:
    """Returns the last lines of `logs/ossec.log` that are log lines, oldest first."""
    path = Path(root, "logs/ossec.log")
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_LOG_BYTES))
            text = file.read(MOST_LOG_BYTES).decode(errors="replace")
    except OSError as failure:
        raise WireException(1020, failure.strerror) from None
    return [parsed for line in text.split("\n")[-LOG_LINES - 1 :] if (parsed := _parsed(line)) is not None]


def _parsed(line: str) -> dict[str, str] | None:
    found = _LINE.match(line)
    if found is None:
        return None
    date, tag = found["date"], found["tag"]
    return {
        "timestamp": f"{date[:4]}-{date[5:7]}-{date[8:10]}T{date[11:]}Z",
        "tag": "wazuh-rootcheck" if "rootcheck" in tag else tag,
        "level": found["level"].lower(),
        "description": found["description"],
    }
