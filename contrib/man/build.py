"""`make man`: a manual page for each command of `clusterd`, from what click knows of it. Uses the environment that it
runs in; writes PAGE.1 files and nothing else.

Roff is written for man(7) as groff and mandoc read it: one request a line, everything else escaped."""

import argparse
import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from clusterd import __version__, exits
from tools.cli import cluster

PROJECT = Path(__file__).resolve().parents[2]
OUT = PROJECT / "dist/man/man1"
NAME = "clusterd"
FILES = (
    ("etc/ossec.conf", "block <cluster>: name, key, role, addresses"),
    ("etc/cluster.json", "intervals, file rules and the section clusterd; optional"),
    ("logs/cluster.log", "the log; logs/clusterd-crash.log has the stacks of processes that were stuck"),
    ("queue/db/global.db", "the agent database, where this node serves it"),
)
"""Below the node's directory."""


def escape(text: str) -> str:
    """Returns text that roff shows as it stands, also at the beginning of a line."""
    shown = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return f"\\&{shown}" if shown.startswith(".") else shown


def bold(text: str) -> str:
    return f"\\fB{escape(text)}\\fR"


def commands(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yields the command and all below it, each with the words that call it."""
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=words[-1])
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from commands(inner, (*words, name))


def page(words: tuple[str, ...], command: click.Command) -> str:
    """Returns one manual page."""
    name = "-".join(words)
    context = click.Context(command, info_name=" ".join(words))
    lines = [
        f'.TH "{escape(name.upper())}" 1 "" "clusterd {escape(__version__)}" "clusterd"',
        ".SH NAME",
        f"{escape(name)} \\- {escape(_first_sentence(command))}",
        ".SH SYNOPSIS",
        f"{bold(' '.join(words))} {escape(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
        *_paragraphs(inspect.cleandoc(command.help or "")),
    ]
    found = [one.get_help_record(context) for one in command.get_params(context) if isinstance(one, click.Option)]
    options = [record for record in found if record is not None]
    if options:
        lines.append(".SH OPTIONS")
        for option, text in options:
            lines += [".TP", bold(option), escape(" ".join(text.split())) or "\\&"]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for inner_words, inner in commands(command, words):
            if len(inner_words) == len(words) + 1:
                lines += [".TP", f"{bold('-'.join(inner_words))}(1)", escape(_first_sentence(inner))]
    if words == (NAME,):
        lines += _common()
    else:
        lines += [".SH SEE ALSO", f"{bold('-'.join(words[:-1]))}(1)"]
    return "\n".join(lines) + "\n"


def _first_sentence(command: click.Command) -> str:
    text = " ".join(inspect.cleandoc(command.help or command.name or "").replace("\b", "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".:")


def _paragraphs(text: str) -> Iterator[str]:
    """Yields the lines of a help text. A paragraph that begins with click's mark \\b keeps its lines."""
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        if paragraph.startswith("\b"):
            yield from (".nf", *(escape(line) for line in paragraph.removeprefix("\b").strip("\n").split("\n")), ".fi")
        else:
            yield escape(" ".join(paragraph.split()))


def _common() -> Iterator[str]:
    """Yields what holds for all commands: exit codes, environment, files."""
    yield ".SH EXIT STATUS"
    for code, meaning in exit_codes():
        yield from (".TP", bold(str(code)), escape(meaning))
    yield from (".SH ENVIRONMENT", ".TP", bold("CLUSTERD_ROOT"), escape("The node's directory, as --root."))
    yield from (".SH FILES", "Below the node\\(aqs directory:")
    for path, what in FILES:
        yield from (".TP", f"\\fI{escape(path)}\\fR", escape(what))


def exit_codes() -> Iterator[tuple[int, str]]:
    """Yields each exit code with the text that stands below it in clusterd/exits.py."""
    source = ast.parse(inspect.getsource(exits.ExitCode)).body[0]
    assert isinstance(source, ast.ClassDef)
    for before, after in zip(source.body, source.body[1:], strict=False):
        match before, after:
            case ast.Assign(value=ast.Constant(value=int(code))), ast.Expr(value=ast.Constant(value=str(text))):
                yield code, " ".join(text.split())


def build(out: Path) -> list[Path]:
    """Writes all pages into `out`; returns their paths. Pages of commands that are no more are removed."""
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for words, command in commands(cluster, (NAME,)):
        path = out / f"{'-'.join(words)}.1"
        path.write_text(page(words, command), encoding="utf-8")
        made.append(path)
    for old in set(out.glob(f"{NAME}*.1")) - set(made):
        old.unlink()
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the manual pages of clusterd.")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    print(f"{len(build(arguments.out))} pages in {arguments.out}", file=sys.stderr)
