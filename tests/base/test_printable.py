"""Texts of other programs cannot begin a line of the log, control a terminal or act as markup of rich."""

import io
import json
import re
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from clusterd.logs import Log
from clusterd.status.status import StatusReader
from clusterd.status.verdict import verdict
from clusterd.supervisor.notify import Notifier
from tools.cli_control import agents_view, nodes_view
from tools.cluster_tables import agents_table, health_summary, nodes_table
from tools.console import PlainConsole
from tools.screen import status_view
from tools.show import echo

FORGED = "x\n2026/01/01 00:00:00 INFO: [Master] [Main] All is well."
HOSTILE = [
    FORGED,
    FORGED.replace("\n", "\r\n"),
    FORGED.replace("\n", "\u2028"),
    FORGED.replace("\n", "\x85"),
    "Traceback (most recent call last):" + FORGED,
    "x\nTraceback (most recent call last):\n  2026/01/01 00:00:00 INFO: [Master] [Main] forged" + FORGED,
    "x\n. Some files won't be synced" + FORGED,
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "\u202egpj.exe",
    "a\0b\x7f",
    "\udcff",
]
HEAD = re.compile(r"\s*\d{4}/\d\d/\d\d ")
NEVER = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_of_others_begins_no_line_of_the_log(tmp_path: Path, text: str, log_format: Any) -> None:
    copy = io.StringIO()
    log = Log(str(tmp_path / "cluster.log"), 2, log_format, stream=copy)
    log.line("ERROR", "Master", "Main", f"The peer said: {text}")
    log.line("WARNING", text, text, f"Not at fault: {text}")
    log.close()
    whole = (tmp_path / "cluster.log").read_text()
    for written in (whole, copy.getvalue()):
        if log_format == "json":
            messages = [json.loads(line)["message"] for line in written.splitlines()]
            assert len(messages) == 2
            assert not any(HEAD.match(line) for line in messages[0].split("\n")[1:])
            assert not NEVER.search(messages[0])
        else:
            assert len([line for line in written.split("\n") if HEAD.match(line)]) == 2
            assert not NEVER.search(written)


def test_a_traceback_keeps_its_form(tmp_path: Path) -> None:
    try:
        raise ValueError(FORGED)
    except ValueError:
        stack = traceback.format_exc()
    log = Log(str(tmp_path / "cluster.log"))
    log.line("ERROR", "Master", "Main", f"Unexpected failure: {stack}")
    log.close()
    text = (tmp_path / "cluster.log").read_text()
    expected = stack.replace("\n2026/", "\\n2026/")
    assert f"Unexpected failure: {expected}\n" in text


def drawn(what: Any) -> str:
    screen = PlainConsole(file=io.StringIO(), width=300, force_terminal=True, color_system="standard")
    screen.print(what)
    return re.sub(r"\x1b\[[\d;]*m", "", screen.file.getvalue())  # type: ignore[attr-defined]


MARKED = "[red]w1[/red]:smile:[/]"


def views(text: str, tmp_path: Path) -> dict[str, Any]:
    peer = {"name": text, "address": text, "version": text, "program": text, "connected_at": 1.0, "keepalive_at": 1.0}
    result: dict[str, Any] = dict.fromkeys(("checked_at", "synced_at", "lag_s", "lag_files"))
    result |= {"result": text, "created": 0, "updated": 0, "deleted": 0, "detail": text, "problems": {text: text}}
    status = StatusReader(str(tmp_path)).read()
    status |= {"running": True, "started_at": 1.0, "problem": text, "problems": {"x": text}, "peers": [peer]}
    status |= {"left_out": {text: {"count": 2, "files": {text: text}}}}
    status |= {"clocks": {text: {"offset_s": 95.0, "off_by_s": 0.0}}}
    status |= {"results": {text: result}, "node": dict.fromkeys(status["node"], text) | {"term": None}}
    status |= {"left_behind": [{"text": text}]}
    agent = dict.fromkeys(("id", "name", "ip", "version", "node_name", "status"), text)
    node = {"name": text, "type": text, "version": text, "ip": text, "state": "refused", "why": text}
    table = Table(text)
    table.add_row(text)
    return {
        "status": status_view(status, verdict(status)),
        "agents": agents_view([agent]),
        "nodes": nodes_view([node]),
        "anything": Group(table, Text(text)),
    }


@pytest.mark.parametrize("which", ["status", "agents", "nodes", "anything"])
@pytest.mark.parametrize("text", [*HOSTILE, MARKED])
def test_a_text_of_others_drives_no_terminal(tmp_path: Path, text: str, which: str) -> None:
    shown = drawn(views(text, tmp_path)[which])
    assert not NEVER.search(shown)
    if which == "status":
        assert not any(HEAD.match(line) for line in shown.split("\n"))
    if text == MARKED:
        assert shown.count(MARKED) >= 2


@pytest.mark.parametrize("text", HOSTILE)
def test_stock_tables_and_lines_are_one_line_each(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    node = {"info": {"type": "worker", "ip": text}}
    node["status"] = {
        key: {"date_end_master": text, "date_end": text}  # type: ignore[dict-item]
        for key in ("last_check_integrity", "last_sync_integrity", "last_sync_agentinfo", "last_sync_agentgroup")
    } | {"last_sync_full_agentgroup": {"date_end": text}, "last_keep_alive": text}  # type: ignore[dict-item]
    assert nodes_table({"items": [dict.fromkeys("abcd", text)]}).count("\n") == 1
    assert agents_table([{"id": text, "name": text}]).count("\n") == 1
    health = health_summary(text, {"n_connected_nodes": 1, "nodes": {text: node}})
    assert health.count("\n") == 4
    echo(text)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert not NEVER.search(health + said)


def test_systemd_gets_one_status(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "n"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "n")}, 1)
        notifier.ready("serving\nMAINPID=1")
        notifier.close()
        assert [line.partition("=")[0] for line in server.recv(4096).decode().split("\n")] == [
            "READY",
            "STATUS",
            "MAINPID",
        ]
