"""A problem of a node is reported once, and shown until it is over."""

import asyncio

import pytest

from clusterd.sync.ports.net_port import LinkClosed
from clusterd.sync.ports.tag_log import TagLog
from clusterd.sync.ports.troubles import Troubles, round_survives


class Lines:
    def __init__(self) -> None:
        self.written: list[tuple[str, str]] = []

    def line(self, level: str, tag: str, subtag: str, text: str) -> None:
        self.written.append((level, text))


def tag_log(lines: Lines) -> TagLog:
    return TagLog(lines, "Local", "Trouble")  # type: ignore[arg-type]


def test_a_trouble_is_logged_when_it_begins_and_when_it_ends_and_shown_between() -> None:
    lines, troubles = Lines(), Troubles()
    assert troubles.begin("spool", "The spool cannot be written: 1 byte.", tag_log(lines))
    assert not troubles.begin("spool", "The spool cannot be written: 2 bytes.", tag_log(lines))
    assert troubles.shown() == {"spool": "The spool cannot be written: 2 bytes."}
    assert troubles.end("spool", "The spool can be written again.", tag_log(lines))
    assert not troubles.end("spool", "The spool can be written again.", tag_log(lines))
    assert troubles.shown() == {}
    assert [level for level, _ in lines.written] == ["WARNING", "INFO"]


def test_a_loop_survives_rounds_that_fail_and_logs_it_once() -> None:
    lines, troubles = Lines(), Troubles()
    for failure in (OSError("no space"), RuntimeError(), None, None):
        with round_survives(tag_log(lines), troubles, "Broadcast"):
            if failure is not None:
                raise failure
    assert lines.written == [("ERROR", "Broadcast: no space"), ("INFO", "Broadcast: works again")]


def test_end_of_the_loop_says_nothing_about_its_subject() -> None:
    lines, troubles = Lines(), Troubles()
    troubles.begin("replica", "The store is away.")
    with pytest.raises(LinkClosed), round_survives(tag_log(lines), troubles, "replica", passes=LinkClosed):
        raise LinkClosed("get_changes")
    assert (troubles.shown(), lines.written) == ({"replica": "The store is away."}, [])


def test_cancelling_ends_the_loop() -> None:
    with pytest.raises(asyncio.CancelledError), round_survives(tag_log(Lines()), Troubles(), "Broadcast"):
        raise asyncio.CancelledError
