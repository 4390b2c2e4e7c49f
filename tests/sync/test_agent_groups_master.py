"""Decisions of the master's side of agent-groups, without nodes."""

from types import SimpleNamespace
from typing import cast

from clusterd.sync.agent_groups_master import AgentGroupsMaster
from clusterd.sync.context import Context
from clusterd.sync.journal import Journal
from clusterd.sync.peer import Peer


class Lines:
    def __init__(self) -> None:
        self.written: list[tuple[str, str, str, str]] = []

    def line(self, level: str, tag: str, subtag: str, text: str) -> None:
        self.written.append((level, tag, subtag, text))


def test_result_that_comes_before_anything_was_recorded_is_taken() -> None:
    """quirks.md C15: the stock master answers error 1000."""
    lines = Lines()
    context = SimpleNamespace(journal=lambda tag, subtag: Journal(lines, tag, subtag))  # type: ignore[arg-type]
    groups = AgentGroupsMaster(cast(Context, context), {})
    peer = cast(Peer, SimpleNamespace(name="w1", link=7))
    groups.finished_all(peer, b'{"updated_chunks": 3, "error_messages": [], "time_spent": 0.1}')
    expected = ("INFO", "Worker w1", "Agent-groups send full", "Finished in 0.000s. Updated 3 chunks.")
    assert lines.written == [expected]
