"""The files of a group as objects (dapi.md 5.3): `agent.conf`, and the lists and policies of rootcheck."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from clusterd.config.markup import Element
from clusterd.dapi.ruleset.xml import as_objects, parse_ruleset

Form = Literal["conf", "rootkit_files", "rootkit_trojans", "rcl"]
_LISTS = frozenset({"localfile", "wodle"})
"""Sections that are a list even if there is only one."""


class UnknownForm(Exception):
    """No known way to parse this file."""


def parse_group_file(name: str, text: str, form: str | None = None) -> Any:
    """Parses a file. `form`: one of Form, None for the form that the name implies. Raises UnknownForm, MalformedXml."""
    parse = _PARSERS.get(form or form_of(name))
    if parse is None:
        raise UnknownForm(name)
    return parse(text)


def form_of(name: str) -> str:
    """Returns the form that a group's file of this name has; "" for another name."""
    if name == "agent.conf":
        return "conf"
    if name in ("rootkit_files.txt", "rootkit_trojans.txt"):
        return name.removesuffix(".txt")
    return "rcl" if name.endswith("_rcl.txt") or name.startswith("system_audit_") else ""


def parse_configuration(text: str) -> dict[str, Any]:
    """Returns each `<agent_config>`: `filters` are its attributes, `config` its sections by name."""
    blocks = [
        {"filters": dict(root.attributes), "config": _sections(root)}
        for root in parse_ruleset(text)
        if root.name == "agent_config"
    ]
    return {"total_affected_items": len(blocks), "affected_items": blocks}


def _sections(block: Element) -> dict[str, Any]:
    return {
        name: [value] if name in _LISTS and not isinstance(value, list) else value
        for name, value in as_objects(block.children).items()
    }


def _parse_rootkit_files(text: str) -> list[dict[str, str]]:
    """Parses lines of `file ! name ::link`."""
    found = []
    for line in _lines(text):
        file, _, rest = line.partition("!")
        name, _, link = rest.partition("::")
        found.append({"filename": file.strip(), "name": name.strip(), "link": link.strip()})
    return found


def _parse_rootkit_trojans(text: str) -> list[dict[str, str]]:
    """Parses lines of `file ! pattern ! description`; a pattern has no `!`."""
    found = []
    for line in _lines(text):
        file, pattern, description = (*line.split("!", 2), "", "")[:3]
        found.append({"filename": file.strip(), "name": pattern.strip(), "description": description.strip()})
    return found


def _parse_policy(text: str) -> dict[str, Any]:
    """Parses lines of `$name=values;`, `[control] [condition] [reference]` and the checks of the control before
    them."""
    variables: dict[str, str] = {}
    controls: list[dict[str, Any]] = []
    for line in _lines(text):
        if line.startswith("$"):
            name, _, value = line[1:].partition("=")
            variables[name.strip()] = value.strip().removesuffix(";")
        elif line.startswith("["):
            name, condition, reference = (*_in_brackets(line, 3), "", "", "")[:3]
            controls.append(
                {
                    "name": name.strip(),
                    "condition": condition.strip(),
                    "reference": reference.strip(),
                    "checks": [],
                }
            )
        elif controls:
            controls[-1]["checks"].append(line)
    return {"vars": variables, "controls": controls}


def _in_brackets(line: str, most: int) -> list[str]:
    """Returns what the first pairs of brackets contain. Without a pattern, which would look for the end of each bracket
    of a line that has no end."""
    found: list[str] = []
    end = 0
    while len(found) < most and (start := line.find("[", end)) >= 0 and (end := line.find("]", start)) >= 0:
        found.append(line[start + 1 : end])
    return found


def _lines(text: str) -> Iterator[str]:
    """Yields the lines without blank ones and comments."""
    for line in text.splitlines():
        if (found := line.strip()) and not found.startswith("#"):
            yield found


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "conf": parse_configuration,
    "rootkit_files": _parse_rootkit_files,
    "rootkit_trojans": _parse_rootkit_trojans,
    "rcl": _parse_policy,
}
