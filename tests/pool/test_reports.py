"""Long strings of agents and groups that no node means well with: they cost little memory and no other request."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from clusterd.messages.agents import GroupsOpened, OpenGroups, OpenReport, ReportOpened
from clusterd.pool.agents import open_groups, open_report
from clusterd.pool.failure import Failure
from clusterd.wdb import batches

MANY = 200_000


def report(data: bytes, tmp_path: Path) -> ReportOpened:
    (tmp_path / "string").write_bytes(data)
    return open_report(OpenReport(str(tmp_path / "string"), len(data), str(tmp_path / "out")))


def groups(data: bytes, tmp_path: Path) -> GroupsOpened:
    (tmp_path / "string").write_bytes(data)
    return open_groups(OpenGroups(str(tmp_path / "string"), len(data), str(tmp_path / "out")))


def peak_of(work: Callable[[], object]) -> int:
    """Returns the most bytes that were in use at a time."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("before", "after"),
    [(b'{"payload": {}, "chunks": {', b"}}"), (b'{"chunks": {}, "payload": {', b"}}")],
    ids=["chunks", "payload"],
)
def test_members_of_a_report_that_mean_nothing_cost_no_more_than_their_bytes(
    before: bytes, after: bytes, tmp_path: Path
) -> None:
    data = before + b",".join(b'"%x":0' % number for number in range(MANY)) + after
    assert peak_of(lambda: report(data, tmp_path)) < 4 * len(data)


def test_report_of_more_objects_than_a_cluster_has_agents_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_OBJECTS", 5)
    row = b'{"payload": {}, "chunks": {"syncreq": [{"id": 1}, {"id": 2}%b]}}'
    assert report(row % b"", tmp_path).lists == 1
    with pytest.raises(Failure, match="more than 5 objects"):
        report(row % b', {"id": 3}', tmp_path)


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (b"-5", -5),
        (b"true", None),
        (b"1.5", None),
        (b'"5"', None),
        (b"9" * 5000, None),
        (b'"\xff"', None),
        (b"1e999", None),
        (b"[" * 500 + b"]" * 500, None),
    ],
)
def test_offset_that_is_no_number_of_microseconds_is_none(offset: bytes, expected: int | None, tmp_path: Path) -> None:
    data = b'{"payload": {"clock_offset_us": ' + offset + b'}, "chunks": {"syncreq": [], "syncreq_status": []}}'
    opened = report(data, tmp_path)
    assert (opened.offset_us, opened.lists) == (expected, 2)


def test_groups_in_more_chunks_than_a_master_fills_are_refused_before_they_are_read(tmp_path: Path) -> None:
    data = b'{"payload": {}, "chunks": [' + b",".join([b'"ab\\\\"'] * MANY) + b"]}"

    def refused() -> None:
        with pytest.raises(Failure, match="more than 10000 chunks"):
            groups(data, tmp_path)

    assert peak_of(refused) < 4 * len(data)


def test_groups_whose_payload_would_be_written_with_each_chunk_are_refused(tmp_path: Path) -> None:
    head = b'{"payload": {"mode": "%b"}, "chunks": ["[{\\"data\\": [{\\"id\\": 1, \\"groups\\": [\\"a\\"]}]}]"]}'
    assert len(groups(head % b"override", tmp_path).requests) == 1
    with pytest.raises(Failure, match="a payload of"):
        groups(head % (b"x" * 5000), tmp_path)


def test_chunk_that_no_database_fills_is_named_and_the_others_are_written(tmp_path: Path) -> None:
    good = b'"[{\\"data\\": [{\\"id\\": 1, \\"groups\\": [\\"a\\"]}]}]"'
    large = b'"[{\\"data\\": [' + b",".join([b"0"] * 600_000) + b']}]"'
    data = b'{"payload": {}, "chunks": [' + good + b", " + large + b", " + good + b"]}"
    opened = groups(data, tmp_path)
    assert [request.chunk for request in opened.requests] == [1, 3]
    assert opened.bad == ["chunk 2 cannot be read: a chunk of 1200013 characters"]
