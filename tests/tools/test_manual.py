"""`make man`: every command has a page, and the programs that show pages find nothing wrong with it."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from clusterd.exits import ExitCode
from tools.cli import COMMANDS, cluster

MANUAL: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "contrib/man/build.py"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("man")
    (out / "clusterd-gone.1").touch()
    MANUAL["build"](out)
    return out


def text_of(page: Path) -> str:
    """Returns roughly what a reader sees."""
    shown = page.read_text(encoding="utf-8")
    for written, meant in (("\\fB", ""), ("\\fI", ""), ("\\fR", ""), ("\\(aq", "'"), ("\\(ga", "`"), ("\\-", "-")):
        shown = shown.replace(written, meant)
    return shown.replace("\\&", "").replace("\\e", "\\")


def test_every_command_and_every_option_is_in_a_page(pages: Path) -> None:
    context = click.Context(cluster, info_name="clusterd")
    wanted = {"clusterd.1", "clusterd-api-user-add.1"} | {f"clusterd-{name}.1" for name in COMMANDS}
    assert wanted <= {page.name for page in pages.iterdir()}
    assert not (pages / "clusterd-gone.1").exists()
    for name in COMMANDS:
        command = cluster.get_command(context, name)
        assert command is not None
        text = text_of(pages / f"clusterd-{name}.1")
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert max(option.opts, key=len) in text, (name, option.opts)


def test_main_page_has_the_exit_codes(pages: Path) -> None:
    text = text_of(pages / "clusterd.1")
    section = text[text.index(".SH EXIT STATUS") : text.index(".SH ENVIRONMENT")]
    assert re.findall(r"\.TP\n(\d+)\n", section) == [str(int(code)) for code in ExitCode]


@pytest.mark.parametrize("text", [".TH x", "'quoted' -n \\fB", "`a`"])
def test_text_cannot_be_taken_for_a_request(text: str) -> None:
    assert not MANUAL["escape"](text).startswith((".", "'"))


@pytest.mark.slow
def test_programs_that_show_pages_have_no_complaint(pages: Path) -> None:
    checks = {"mandoc": ["-T", "lint", "-W", "error"], "man": ["--warnings", "-l", "-Tutf8", "-Z"]}
    programs = [name for name in checks if shutil.which(name)]
    if "man" in programs and shutil.which("groff") is None:
        programs.remove("man")
    if not programs:
        pytest.skip("neither mandoc nor man and groff are installed")
    made = [str(page) for page in sorted(pages.iterdir())]
    for program in programs:
        done = subprocess.run([program, *checks[program], *made], capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, ""), program
        if program == "mandoc":
            assert done.stdout == ""
