"""client.keys and agents-timestamp as in wdb.md 8.5: what is read, what is written, what a failure leaves."""

import errno
import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clusterd.agent_keys import GREATEST_ID, Key, Other, parse_keys
from clusterd.store.key_table import KeyTable, NoIdLeft
from clusterd.store.keys import ChangedMeanwhile, KeyFile, NotSynced, Unreadable, keys_in_use
from hashing.atomic import is_temporary, new_owner, temporary_name
from tests.fakes.file_ops import FaultyOps
from tests.sizes import examples

WEB = Key("001", "web", "any", "a" * 64)
DB = Key("002", "db", "10.0.0.2", "b" * 64)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("etc", "queue"):
        (tmp_path / name).mkdir()
    return tmp_path


def key_file(root: Path) -> Path:
    return root / "etc/client.keys"


def opened(root: Path, ops: FaultyOps | None = None) -> KeyFile:
    file = KeyFile(str(root), ops)
    file.refresh()
    return file


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_comments_are_skipped_and_both_marks_mean_removed() -> None:
    text = "# 001 a any k\n 002 b any k\n003 !c any k\n004 #d any k\n\n005 e any k\n"
    keys, other = parse_keys(text)
    assert [(key.id, key.name, key.is_removed) for key in keys] == [
        ("003", "c", True),
        ("004", "d", True),
        ("005", "e", False),
    ]
    assert other == Other(["# 001 a any k", " 002 b any k"], [])


@pytest.mark.parametrize(
    "line",
    ["001", "001 a any", "001 a any k more", "001  any k", "x a any k", "-1 a any k", "000 a any k", "001 ! any k"]
    + ["٣ a any k", "9" * 11 + " a any k", "9" * 5000 + " a any k", "\udcff a any k", "001\ta\tany\tk"],
)
def test_line_that_is_not_an_agents_is_kept_unchanged(line: str) -> None:
    keys, other = parse_keys(f"{line}\n005 e any k\n")
    assert (keys, other.bad) == ([Key("005", "e", "any", "k")], [line])
    assert KeyTable(keys, other).render() == f"005 e any k\n{line}\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_a_byte_order_mark_costs_no_key(end: str) -> None:
    assert parse_keys(f"\ufeff001 a any k{end}") == ([Key("001", "a", "any", "k")], Other())


def test_everything_in_the_file_outlives_a_registration(root: Path) -> None:
    key_file(root).write_bytes(b"\xef\xbb\xbf# ours\r\n001 a any k\r\n\xff\xfe\0 broken\n\n003 !c any k")
    file = opened(root)
    file.table.add(Key("004", "d", "any", "k"))
    file.save()
    assert key_file(root).read_bytes() == b"# ours\r\n001 a any k\n004 d any k\n003 !c any k\n\xff\xfe\0 broken\n"


def test_unusual_breaks_of_lines_do_not_tear_a_name() -> None:
    assert parse_keys("001 a\u2028b any k\r\n002 c\x85d any k")[0] == [
        Key("001", "a\u2028b", "any", "k"),
        Key("002", "c\x85d", "any", "k"),
    ]


def test_key_is_cut_at_127_characters_when_it_is_read() -> None:
    assert parse_keys(f"001 a any {'k' * 200}")[0][0].key == "k" * 127


WORD = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=12).filter(
    lambda text: text[0] not in "!#" and not re.search(r"\s", text)
)
KEYS = st.builds(
    Key,
    st.integers(1, 99999).map(lambda n: f"{n:03d}"),
    WORD,
    st.sampled_from(["any", "10.0.0.1"]),
    WORD,
    st.booleans(),
)


@pytest.mark.slow
@given(keys=st.lists(KEYS, max_size=20, unique_by=lambda key: key.number))
@settings(deadline=None)
def test_file_says_what_the_table_holds(keys: list[Key]) -> None:
    found, other = parse_keys(KeyTable(keys).render())
    assert other == Other()
    assert sorted(found, key=lambda key: key.number) == sorted(keys, key=lambda key: key.number)


@given(text=st.text(max_size=200))
def test_any_text_is_read_without_a_crash(text: str) -> None:
    keys, other = parse_keys(text)
    assert len(keys) + len(other.bad) + len(other.comments) <= len(text.split("\n"))
    again, kept = parse_keys(KeyTable(keys, other).render())
    assert sorted(kept.bad) == sorted(other.bad)
    assert {key.number for key in again} == {key.number for key in keys}


# ---- the table -------------------------------------------------------------------------------------------------------


def test_new_ids_go_on_behind_the_greatest_that_ever_was() -> None:
    table = KeyTable([WEB, Key("0041", "gone", "any", "k", is_removed=True)])
    assert table.next_id() == "042"
    assert KeyTable().next_id() == "001"
    assert KeyTable([Key("999", "a", "any", "k")]).next_id() == "1000"
    table.add(Key("500", "late", "any", "k"))
    table.remove(500, purge=True)
    assert table.next_id() == "501"
    with pytest.raises(NoIdLeft):
        KeyTable([Key(str(GREATEST_ID), "last", "any", "k")]).next_id()


def test_removed_entry_stays_in_the_file_unless_it_is_purged() -> None:
    table = KeyTable([WEB, DB])
    table.remove(1, purge=False)
    assert table.render() == DB.line() + f"001 !web any {'a' * 64}\n"
    assert (table.get(1), table.named("web")) == (None, None)
    table.remove(2, purge=True)
    assert table.render() == f"001 !web any {'a' * 64}\n"
    assert table.at("10.0.0.2") is None


def test_removed_entry_does_not_displace_one_in_use_of_its_number() -> None:
    again = Key("001", "again", "any", "c" * 64)
    for lines in (again.line() + "001 !web any k\n", "001 !web any k\n" + again.line()):
        table = KeyTable(parse_keys(lines)[0])
        assert (table.get(1), table.render()) == (again, again.line())


def test_later_of_two_lines_with_one_number_counts() -> None:
    table = KeyTable(parse_keys("7 old 10.0.0.7 k\n007 new any k\n")[0])
    assert table.get(7) == Key("007", "new", "any", "k")
    assert (table.named("old"), table.at("10.0.0.7")) == (None, None)


def test_name_that_a_file_gives_to_three_is_taken_until_the_last_is_gone() -> None:
    table = KeyTable(Key(f"00{n}", "web", "10.0.0.1", "k") for n in (1, 2, 3))
    for number in (2, 1, 3):
        assert table.named("web") is not None
        assert table.at("10.0.0.1") is not None
        table.remove(number, purge=False)
    assert (table.named("web"), table.at("10.0.0.1")) == (None, None)


class TableMachine(RuleBasedStateMachine):
    """A table beside a plain list of the ids in use."""

    def __init__(self) -> None:
        super().__init__()
        self.table = KeyTable()
        self.used: dict[int, Key] = {}
        self.ever: set[int] = set()

    @rule(name=st.sampled_from("abcdef"), ip=st.sampled_from(["any", "10.0.0.1", "10.0.0.2"]))
    def add_next(self, name: str, ip: str) -> None:
        key = Key(self.table.next_id(), name, ip, "k")
        assert key.number not in self.ever
        self._put(key)

    @rule(number=st.integers(1, 9), name=st.sampled_from("abcdef"))
    def add_chosen(self, number: int, name: str) -> None:
        self._put(Key(f"{number:03d}", name, "any", "k"))

    @rule(number=st.integers(1, 12), purge=st.booleans())
    def remove(self, number: int, purge: bool) -> None:
        self.table.remove(number, purge=purge)
        self.used.pop(number, None)

    def _put(self, key: Key) -> None:
        self.table.add(key)
        self.used[key.number] = key
        self.ever.add(key.number)

    @invariant()
    def indexes_find_exactly_what_is_in_use(self) -> None:
        assert {key.number: key for key in self.table} == self.used
        for name in "abcdef":
            found = self.table.named(name)
            assert (found is None) == all(key.name != name for key in self.used.values())
            assert found is None or (found.name == name and found in self.used.values())
        for ip in ("10.0.0.1", "10.0.0.2"):
            assert (self.table.at(ip) is None) == all(key.ip != ip for key in self.used.values())
        assert self.table.at("any") is None

    @invariant()
    def file_gives_the_same_table(self) -> None:
        again = KeyTable(parse_keys(self.table.render())[0])
        assert again.render() == self.table.render()
        assert {key.number: key for key in again} == self.used


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=examples(40), stateful_step_count=25, deadline=None)


# ---- the file --------------------------------------------------------------------------------------------------------


def test_new_file_has_mode_0640_and_an_old_one_keeps_mode_and_owner(root: Path) -> None:
    file = opened(root)
    file.table.add(WEB)
    file.save()
    assert key_file(root).stat().st_mode & 0o7777 == 0o640
    os.chmod(key_file(root), 0o660)
    owner = (1234, 2345) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(key_file(root), *owner)
    file.refresh()
    file.table.add(DB)
    file.save()
    found = key_file(root).stat()
    assert (found.st_mode & 0o7777, (found.st_uid, found.st_gid)) == (0o660, owner)
    assert key_file(root).read_text() == WEB.line() + DB.line()


def test_owner_that_cannot_be_kept_does_not_stop_registration(root: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a file of somebody else")
    key_file(root).write_text(WEB.line())
    os.chown(key_file(root), 1234, 2345)
    ops = FaultyOps(lambda number, name: PermissionError(errno.EPERM, "not yours") if name == "chown" else None)
    file = opened(root, ops)
    file.table.add(DB)
    file.save()
    assert key_file(root).read_text() == WEB.line() + DB.line()
    assert ops.names.count("chown") == 2


def test_file_is_read_again_only_when_another_program_wrote_it(root: Path) -> None:
    file = opened(root)
    file.table.add(WEB)
    file.save()
    assert not file.refresh()
    os.rename(key_file(root), root / "etc/old")
    key_file(root).write_text(WEB.line())
    assert file.refresh()
    assert not file.refresh()
    key_file(root).write_text(DB.line())
    assert file.refresh()
    assert [key.name for key in file.table] == ["db"]


def test_number_given_once_is_not_given_again_when_the_file_was_changed(root: Path) -> None:
    file = opened(root)
    file.table.add(Key("300", "purged", "any", "k"))
    file.save()
    key_file(root).write_text(WEB.line())
    file.refresh()
    assert file.table.next_id() == "301"


def test_change_by_another_program_is_never_overwritten(root: Path) -> None:
    file = opened(root)
    file.table.add(WEB)
    key_file(root).write_text(DB.line())
    with pytest.raises(ChangedMeanwhile):
        file.save()
    assert key_file(root).read_text() == DB.line()
    file.forget()
    file.refresh()
    assert [key.name for key in file.table] == ["db"]


@pytest.mark.parametrize("during", ["create", "write", "fsync"])
def test_change_by_another_program_while_the_file_is_written_is_not_overwritten(root: Path, during: str) -> None:
    """With many keys, or a slow disk, that takes a while."""
    ops = FaultyOps()
    key_file(root).write_text(WEB.line())
    file = opened(root, ops)
    file.table.add(DB)
    theirs = WEB.line() + Key("002", "theirs", "any", "k").line()

    def others_write(number: int, name: str) -> None:
        if name == during:
            key_file(root).write_text(theirs)

    ops.fault = others_write
    with pytest.raises(ChangedMeanwhile):
        file.save()
    assert key_file(root).read_text() == theirs
    assert os.listdir(root / "etc") == ["client.keys"]


def test_change_that_keeps_size_and_time_is_seen(root: Path) -> None:
    """`cp -p`, `rsync -t --inplace`: another key of the same agent is as long as the one before."""
    key_file(root).write_text(WEB.line())
    file = opened(root)
    file.table.add(DB)
    file.save()
    before, other = key_file(root).stat(), Key("001", "web", "any", "c" * 64)
    key_file(root).write_text(other.line() + DB.line())
    os.utime(key_file(root), ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ChangedMeanwhile):
        file.save()
    assert file.refresh()
    assert file.table.get(1) == other


def test_file_without_any_line_of_an_agent_is_not_taken_for_empty(root: Path) -> None:
    key_file(root).write_text("not a key file\n")
    with pytest.raises(Unreadable, match="1 lines"):
        KeyFile(str(root)).refresh()
    key_file(root).write_text("not a key file\n" + WEB.line())
    assert opened(root).bad_lines == 1


class Killed(BaseException):
    """Nothing that follows runs, not even the clean-up."""


@pytest.mark.parametrize("failure", [Killed, OSError])
def test_file_is_old_or_new_at_whatever_operation_it_ends(failure: type[BaseException], root: Path) -> None:
    key_file(root).write_text(WEB.line())
    ends, new = 0, WEB.line() + DB.line()
    while True:
        ends += 1

        def fault(number: int, name: str, at: int = ends) -> BaseException | None:
            dead = number > at and failure is Killed
            return failure(f"at {name}") if number == at or dead else None

        file = opened(root, FaultyOps(fault))
        file.table.add(DB)
        try:
            file.save()
        except NotSynced:
            assert key_file(root).read_text() == new
            assert not file.refresh()
            break
        except failure:
            left = set(os.listdir(root / "etc")) - {"client.keys"}
            assert all(is_temporary(name) for name in left)
            assert not left or failure is Killed
            if key_file(root).read_text() == new:
                break
            assert key_file(root).read_text() == WEB.line()
    assert ends == 6
    file = opened(root)
    file.save()
    # What killed processes left is swept once they are gone, see test_atomic.py.
    assert all(is_temporary(name) for name in set(os.listdir(root / "etc")) - {"client.keys"})


def test_dates_are_kept_for_agents_in_use_and_in_local_time(root: Path) -> None:
    (root / "queue/agents-timestamp").write_text(
        "002 db any 2020-01-02 03:04:05\n003 gone any 2020-01-02 03:04:05\nx\n"
    )
    key_file(root).write_text(DB.line())
    file = opened(root)
    file.table.add(WEB)
    file.save()
    file.save_dates([WEB], 1_700_000_000)
    date = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_700_000_000))
    assert (root / "queue/agents-timestamp").read_text().splitlines() == [
        "002 db 10.0.0.2 2020-01-02 03:04:05",
        f"001 web any {date}",
    ]


def test_bytes_that_are_no_text_survive_a_rewrite_and_are_replaced_for_a_database(root: Path) -> None:
    key_file(root).write_bytes(b"001 caf\xe9 any kkk\n")
    file = opened(root)
    file.save()
    assert key_file(root).read_bytes() == b"001 caf\xe9 any kkk\n"
    assert keys_in_use(str(root)).keys[1].name == "caf\ufffd"


def test_master_s_store_takes_away_what_an_earlier_life_left(root: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = root / "etc" / temporary_name("client.keys", f"pid{ended.pid}-0011223344556677")
    left.write_text("half a key")
    of_ours = root / "etc" / temporary_name("client.keys", new_owner())
    of_ours.write_text("being written")
    KeyFile(str(root)).refresh()
    assert left.exists()
    KeyFile(str(root)).sweep()
    assert not left.exists()
    assert of_ours.exists()
