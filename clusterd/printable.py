"""Makes text from outside safe for log and terminal: peers, file names, agents and callers choose theirs."""

import re
from typing import Any

STACK = "Traceback (most recent call last):"
_LIKE_A_LINE = re.compile(r"\s*\d")
"""How a line of the log begins; no later part of a line may look like it."""


def printable(text: str) -> str:
    """One line: newlines, escape sequences and whatever else nobody sees are written as Python writes them (`\\n`,
    `\\x1b`)."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def printable_lines(text: str) -> str:
    """The same, keeping line breaks: for our own multi-line texts that include text from outside."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def printable_log(text: str) -> str:
    """For an ERROR of the log: one line, except for tracebacks, and no line of it looks like the beginning of another
    message."""
    if text.isprintable():
        return text
    first, *others = text.split("\n")
    stack = STACK in first
    parts = [printable(first)]
    for line in others:
        stack = stack or line.startswith(STACK)
        keep = stack and not _LIKE_A_LINE.match(line)
        parts += ["\n" if keep else "\\n", printable(line)]
    return "".join(parts)


def printable_facts(facts: Any) -> Any:
    """A copy of a JSON value in which all texts, also names of members, are `printable`."""
    match facts:
        case str():
            return printable(facts)
        case dict():
            return {printable_facts(key): printable_facts(value) for key, value in facts.items()}
        case list() | tuple():
            return [printable_facts(value) for value in facts]
        case _:
            return facts
