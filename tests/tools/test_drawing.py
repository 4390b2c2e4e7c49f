"""Tables and colours that are drawn without rich: what fits, what gives way, and nothing drives the terminal."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from tests.fakes.answering_node import answering_node, busy_master
from tools.drawing import Parts, Styled, TextTable, bar, cells, show

SHOWN = st.text(st.characters(exclude_categories=("Cs", "Mn", "Me")), max_size=60) | st.sampled_from(
    [
        "plain words and more",
        "東京 と 大阪",
        "e\u0301te\u0301",
        "x" * 70,
        "a\x1b[31mb",
        "two\nlines",
        "  lead",
        "trail  ",
    ]
)


def shown(what: Styled | TextTable | Parts, width: int | None) -> list[str]:
    return [line.plain for line in what.lines(width)]


@given(text=SHOWN, width=st.integers(2, 40))
def test_folded_lines_fit_and_nothing_but_spaces_is_lost(text: str, width: int) -> None:
    whole = Styled(text, "red")
    lines = whole.lines(width)
    assert all(cells(line.plain) <= width for line in lines)
    assert "".join("".join(line.plain for line in lines).split()) == "".join(whole.plain.split())
    assert all(style == "red" for line in lines for _, style in line.spans)
    assert all(line.plain.isprintable() for line in lines)


@pytest.mark.slow
@given(rows=st.lists(st.tuples(SHOWN, SHOWN, SHOWN), max_size=5), width=st.integers(12, 80))
def test_table_fits_and_its_columns_stand_one_below_the_other(rows: list[tuple[str, str, str]], width: int) -> None:
    table = TextTable("", "first", "n>", "last")
    for row in rows:
        table.add_row(*row)
    for room in (width, None):
        lines = shown(table, room)
        assert all(line.isprintable() for line in lines)
        assert all(room is None or cells(line) <= room for line in lines)
    assert len(shown(table, None)) == len(rows) + 1


@pytest.mark.parametrize("text", ["abc", "é", "東京", "ﾊﾟ", "e\u0301", "🙂", "ⅷ", "▶", "한글", "…"])
def test_width_of_characters_is_that_of_rich(text: str) -> None:
    assert cells(text) == cell_len(text)


def test_widest_columns_give_way_first() -> None:
    table = TextTable("", "name", "why", "n>", first_is_whole=True)
    table.add_row("a-rather-long-name", "one two three four five six seven eight", "12")
    assert shown(table, 40) == [
        "name                why                n",
        "a-rather-long-name  one two three     12",
        "                    four five six",
        "                    seven eight",
    ]


def test_of_equally_wide_columns_that_with_fewer_long_cells_gives_way() -> None:
    table = TextTable("", "at", "lag")
    table.add_row("6 min ago", "")
    table.add_row("7 min ago", "95 s, 12 files")
    assert shown(table, 19) == ["at         lag", "6 min ago", "7 min ago  95 s, 12", "           files"]


def test_empty_cells_leave_no_spaces_at_the_end() -> None:
    table = TextTable("title", "a", "b>", "c")
    table.add_row("x", "", "")
    table.add_row("", "1", "")
    assert shown(table, None) == ["title", "a  b  c", "x", "   1"]


def test_progress_is_seen_without_colours() -> None:
    assert bar(1, 4).plain == "━" * 6 + "─" * 18
    assert bar(9, 4).plain == "━" * 24
    assert bar(0, 0).plain == "─" * 24


def test_live_views_of_rich_draw_the_same() -> None:
    table = TextTable("t", "name", "why")
    table.add_row(Styled("w1", "bold red"), "one two three four five six seven")
    view = Parts(Styled("head", "bold"), Styled(), table)
    for width in (20, 60):
        screen = io.StringIO()
        Console(file=screen, width=width).print(view)
        assert [line.rstrip() for line in screen.getvalue().splitlines()] == shown(view, width)


def on_terminal(root: Path, columns: int, **environment: str) -> str:
    """What `clusterd status` writes to a terminal."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    clean = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "TERM", "FORCE_COLOR")
    }
    command = [sys.executable, "-m", "tools.entry", "--root", str(root), "status", "--no-exit-code"]
    process = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, env={**clean, "TERM": "xterm", **environment}
    )
    os.close(its)
    found = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # the terminal has no writer any more
            break
        if not data:
            break
        found += data
    os.close(ours)
    assert process.wait(60) == 0
    return found.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_terminal_gets_colours_and_its_width(tmp_path: Path) -> None:
    with answering_node(tmp_path, {"status": busy_master()}):
        for columns in (80, 200):
            text = on_terminal(tmp_path, columns)
            assert "\x1b[31mLOST for 55 s\x1b[0m" in text
            assert "\x1b[1;33mDEGRADED\x1b[0m" in text
            plain = re.sub(r"\x1b\[[\d;]*m", "", text)
            assert "\x1b" not in plain  # the escape in a file's name is drawn
            assert "etc/x\\x1b[31m: a\\nb" in plain
            assert max(map(cells, plain.split("\n"))) <= columns
        without = on_terminal(tmp_path, 80, NO_COLOR="1")
        assert set(re.findall(r"\x1b\[([\d;]*)m", without)) == {"0", "1", "2"}  # bold and dim stay
        assert "\x1b" not in on_terminal(tmp_path, 80, TERM="dumb")


def test_what_the_output_has_no_bytes_for_is_escaped() -> None:
    raw = io.BytesIO()
    screen = io.TextIOWrapper(raw, encoding="ascii")
    show(Styled("東 é"), screen)
    assert raw.getvalue() == b"\\u6771 \\xe9\n"


def test_empty_columns_go_before_anything_is_folded() -> None:
    table = TextTable("", "node", "lag", "deleted>", "remark", first_is_whole=True)
    table.add_row("rig_manager_1", "", "0", "")
    assert [line.plain for line in table.lines(30)] == ["node           deleted", "rig_manager_1        0"]
    assert table.lines(None)[0].plain == "node           lag  deleted  remark"
