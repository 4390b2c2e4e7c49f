"""Every recorded reply of a stock master and worker that sync gives (tests/vectors/replies.json), in the order of the
recording. tests/net/test_vectors.py has those that net gives."""

import re
from pathlib import Path
from typing import Any, cast

import pytest

from clusterd.messages.links import LinkInfo, Reply
from tests.sync.scripted_node import Node, code_in, on
from tests.wire.vectors import load, payload_of

NETS = {"hello", "echo", "echo-c", "echo-m", "nope", "ok", "syn_e_w_m_r", "dapi_clus"}
LINKS = {
    "master": LinkInfo(1, "worker", "vec1", "worker", "4.14.1", "127.0.0.1"),
    "worker": LinkInfo(1, "master", "m"),
}
VARYING = {
    "<string id: decimal number 0..4294967295>": rb"[0-9]{1,10}",
    "<the string id given by new_str>": rb"[0-9]{1,10}",
    "<task id: UUID4 text>": rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
OUTSIDE = (b"/nodir/x", b"/tmp/vec.bin")
"""Refused (wire.md W1)."""
NOT_YET = ("syn_w_g_e", "syn_wgc_e")
"""Results that come before anything was recorded are taken (wire.md C15)."""


def is_as_recorded(case: dict[str, Any], given: Reply) -> bool:
    command, payload = case["command"], payload_of(case["payload"])
    recorded = payload_of(case["reply"]["payload"]).replace(b"specm", b"m")
    if payload.startswith(OUTSIDE):
        return given.command == "err" and code_in(given.payload) == 1000
    if command in NOT_YET:
        return (given.command, given.payload) == ("ok", b"Thanks")
    # Of replies that go out, net writes the field: tests/wire has it.
    if given.command != case["reply"]["command_field"].rstrip("-")[:-1]:
        return False
    if recorded.startswith(b"<"):
        return re.fullmatch(VARYING[recorded.decode()], given.payload) is not None
    if b"unexpected keyword argument" in recorded:  # names a method of stock's
        return code_in(given.payload) == 1000
    return given.payload == recorded


@pytest.mark.parametrize("role", ["master", "worker"])
def test_recorded_replies_are_ours(tmp_path: Path, role: str) -> None:
    (tmp_path / "etc").mkdir()
    node = Node(tmp_path, role, pool=True)
    node.context.database.is_there = lambda: True  # type: ignore[method-assign]
    cases = [case for case in load("replies.json")[role] if case["command"] not in NETS]
    assert len(cases) > 12

    async def story() -> None:
        await node.up(LINKS[role])
        if role == "master":
            await node.context.manifests.scan()
        for case in cases:
            given = await node.reply(await node.ask(LINKS[role], case["command"], payload_of(case["payload"])))
            assert is_as_recorded(case, cast(Reply, given)), (case, given)

    on(node, story())
