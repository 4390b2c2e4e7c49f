"""Which role knows which command, and the fixed texts, against the recorded replies (wire.md 4.1)."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from clusterd.wire import commands
from clusterd.wire.command_table import TABLE, known_commands
from clusterd.wire.commands import unknown_command_text
from clusterd.wire.frame import command_field
from tests.wire.vectors import load, payload_of

REPLIES = load("replies.json")
CASES = [(role, case) for role in ("master", "worker") for case in REPLIES[role]]


def is_unknown(case: dict[str, Any]) -> bool:
    return payload_of(case["reply"]["payload"]).startswith(b"unknown command")


@pytest.mark.parametrize(("role", "case"), CASES)
def test_roles_know_the_commands_that_stock_nodes_know(role: Any, case: dict[str, Any]) -> None:
    known = known_commands("worker" if role == "master" else "master", on_master=role == "master")

    assert (case["command"] in known) != is_unknown(case)
    if is_unknown(case):
        assert unknown_command_text(case["command"]) == payload_of(case["reply"]["payload"])


def test_text_for_an_unknown_command_shows_its_bytes() -> None:
    assert unknown_command_text("foo") == b"unknown command 'b'foo''"
    assert unknown_command_text("\x00\xff") == b"unknown command 'b'\\x00\\xff''"


FIXED = {
    "new_file": (commands.OK_NEW_FILE, commands.READY_FOR_FILE),
    "file_upd": (commands.OK, commands.FILE_UPDATED),
    "file_end": (commands.OK, commands.FILE_RECEIVED),
    "cancel_task": (commands.OK, commands.CANCEL_RECEIVED),
    "syn_i_w_m_r": (commands.OK, commands.ERROR_RECEIVED),
    "syn_m_c_r": (commands.OK, commands.ERROR_RECEIVED),
    "syn_m_c_ok": (commands.OK, commands.THANKS),
    "syn_m_a_e": (commands.OK, commands.THANKS),
    "syn_w_g_err": (commands.OK, commands.THANKS),
    "dapi_res": (commands.OK, commands.DAPI_FORWARDED_TO_WORKER),
    "sendsyn_res": (commands.OK, commands.SENDSYNC_FORWARDED),
}


def test_fixed_replies_are_the_recorded_ones() -> None:
    seen = set()
    for _, case in CASES:
        field = case["reply"]["command_field"]
        if case["command"] in FIXED and field.startswith("ok"):
            command, payload = FIXED[case["command"]]
            assert (command_field(command).decode(), payload) == (field, payload_of(case["reply"]["payload"]))
            seen.add(case["command"])
    assert seen == FIXED.keys()


def test_keepalive_permission_and_checksum_replies_are_the_recorded_ones() -> None:
    by_command: dict[str, list[tuple[str, bytes]]] = {}
    for _, case in CASES:
        reply = case["reply"]
        by_command.setdefault(case["command"], []).append((reply["command_field"], payload_of(reply["payload"])))
    assert (command_field(commands.OK_ECHO_C).decode(), commands.KEEPALIVE) in by_command["echo-c"]
    assert (command_field(commands.OK_C).decode(), b"hi") in by_command["echo-m"]
    assert {payload for _, payload in by_command["syn_i_w_m_p"]} == {
        commands.PERMISSION_GRANTED,
        commands.PERMISSION_REFUSED,
    }
    assert ("err --------", commands.CHECKSUM_MISMATCH) in by_command["file_end"]
    assert ("ok ---------", commands.hello_accepted("vec1")) in by_command["hello"]


def test_every_command_fits_its_field() -> None:
    for row in TABLE:
        assert len(command_field(row.word)) == 12


def test_no_link_has_two_rows_for_one_command() -> None:
    seen: list[tuple[str, str, str]] = []
    for row in TABLE:
        for link in row.links:
            seen += [(row.word, link, role) for role in ("master", "worker") if row.role in ("", role)]
    assert len(seen) == len(set(seen))


def test_local_socket_knows_what_its_node_can_do() -> None:
    on_master = known_commands("local", on_master=True)
    on_worker = known_commands("local", on_master=False)
    assert on_master - on_worker == {"dapi_fwd", "forget", "askfailsafe", "hold", "lacking", "settle"}
    assert on_worker - on_master == {"sendsync", "sendasync", "sendrreload"}
    assert "hello" not in on_master | on_worker
    assert "status" in on_master & on_worker


def test_commands_are_spelled_in_one_file_only() -> None:
    """Words without an underscore are ordinary commands, too (`diff`, `status`)."""
    words = {word for name, word in vars(commands).items() if name.isupper() and isinstance(word, str) and "_" in word}
    any_word = re.compile("|".join(map(re.escape, words)))
    spelled = []
    for path in sorted(Path(commands.__file__).parents[1].rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if path.samefile(commands.__file__) or not any_word.search(text):
            continue
        spelled += [
            f"{path.name}:{node.lineno} {node.value}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Constant) and node.value in words
        ]
    assert not spelled
