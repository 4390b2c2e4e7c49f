"""Rules and decoders as the objects of answers (dapi.md 5.6), from the files that the node loads."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from clusterd.config.markup import Element
from clusterd.dapi.files.tree_files import read_text
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Call
from clusterd.dapi.ruleset.config import Kind, RulesetFile
from clusterd.dapi.ruleset.xml import LARGEST_XML, MalformedXml, as_objects, read_ruleset
from clusterd.wire.results import BAD_REQUEST, WireException
from hashing.errors import FileVanished, HashingError

REQUIREMENTS = ("pci_dss", "gpg13", "gdpr", "hipaa", "nist_800_53", "tsc")
"""Standards whose requirements rules name by groups of the form `pci_dss_11.4`. MITRE's have their own element."""
LARGEST_RULESET = 64 * 1024 * 1024
"""Most characters of all files that one request reads; the stock ruleset has 2 million."""
_NUMBER = re.compile(r"\d{1,40}", re.ASCII)
"""Valid numbers have up to 20 digits."""
_OWN_ELEMENTS = frozenset({"description", "group", "mitre"})
Row = dict[str, Any]


def all_rows(
    call: Call,
    kind: Kind,
    files: Iterable[RulesetFile],
    rows_of: Callable[[RulesetFile, list[Element], list[str]], Iterator[Row]],
    items: Items,
) -> list[Row]:
    """Returns the rows of all files. A file that cannot be read or parsed is a failed item of `items` with its path;
    the part of it that can be read is included. Raises WireException (1413, 1501) for more than LARGEST_RULESET."""
    found: list[Row] = []
    left = LARGEST_RULESET
    for file in files:
        try:
            text = read_text(call.root, file.relative_dirname, file.filename, LARGEST_XML)
            left -= len(text)
            if left < 0:
                why = f"the files together have more than {LARGEST_RULESET} characters; ask for fewer by filename"
                raise WireException(kind.unreadable, why, wire_class=BAD_REQUEST)
            document = read_ruleset(text)
            mistakes = [str(complaint) for complaint in document.complaints]
            found.extend(rows_of(file, document.roots, mistakes))
            if mistakes:
                raise MalformedXml(mistakes[0])
        except FileVanished:
            continue
        except MalformedXml as failure:
            items.fail(file.path, WireException(kind.unreadable, f"{file.path}: {failure}", wire_class=BAD_REQUEST))
        except (HashingError, OSError) as failure:
            items.fail(file.path, kind.reading_failed(failure, file.path))
    return found


# ---- rules -----------------------------------------------------------------------------------------------------------


def rule_rows(file: RulesetFile, roots: list[Element], mistakes: list[str]) -> Iterator[Row]:
    """Yields the rules of one file. Those whose id or level is not a number are left out and reported in `mistakes`."""
    for group in roots:
        if group.name == "group":
            names = _names(group.attributes.get("name", ""))
            for rule in group.children:
                if rule.name != "rule":
                    continue
                number, level = rule.attributes.get("id", "").strip(), rule.attributes.get("level", "").strip()
                if _NUMBER.fullmatch(number) and _NUMBER.fullmatch(level):
                    yield _rule_row(file, names, rule, int(number), int(level))
                else:
                    found = f"{number[:50]!r} and {level[:50]!r}"
                    mistakes.append(f"line {rule.line}: a rule needs numbers as id and level, and has {found}")


def _rule_row(file: RulesetFile, group_names: list[str], rule: Element, number: int, level: int) -> Row:
    groups = [*group_names, *(name for text in rule.texts("group") for name in _names(text))]
    row: Row = {
        "filename": file.filename,
        "relative_dirname": file.relative_dirname,
        "id": number,
        "level": level,
        "status": file.status,
        "details": _details(rule, frozenset({"id", "level"}), _OWN_ELEMENTS),
    }
    for standard in REQUIREMENTS:
        prefix = f"{standard}_"
        row[standard] = _once(name.removeprefix(prefix) for name in groups if name.startswith(prefix))
    row["mitre"] = _once(
        text for element in rule.children if element.name == "mitre" for text in element.texts("id") if text
    )
    prefixes = tuple(f"{standard}_" for standard in REQUIREMENTS)
    row["groups"] = _once(name for name in groups if not name.startswith(prefixes))
    row["description"] = " ".join(text for text in rule.texts("description") if text)
    return row


def _names(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


# ---- decoders --------------------------------------------------------------------------------------------------------


def decoder_rows(file: RulesetFile, roots: list[Element], mistakes: list[str]) -> Iterator[Row]:
    """Yields the decoders of one file; `position` counts them from 0. Those without a name are left out and reported in
    `mistakes`."""
    decoders = (element for element in roots if element.name == "decoder")
    for position, decoder in enumerate(decoders):
        name = decoder.attributes.get("name")
        if not name:
            mistakes.append(f"line {decoder.line}: decoder {position} has no name")
            continue
        yield {
            "filename": file.filename,
            "relative_dirname": file.relative_dirname,
            "name": name,
            "position": position,
            "status": file.status,
            "details": _details(decoder, frozenset({"name"}), frozenset()),
        }


# ---- both ------------------------------------------------------------------------------------------------------------


def _details(element: Element, attributes: frozenset[str], children: frozenset[str]) -> Row:
    """Returns the other attributes and children by name: a text; an object with `pattern` for a text with attributes; a
    list for a name that occurs more than once."""
    pairs: list[tuple[str, Any]] = [
        (name, value) for name, value in element.attributes.items() if name not in attributes
    ]
    pairs += [(child.name, _detail(child)) for child in element.children if child.name not in children]
    values: dict[str, list[Any]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: found[0] if len(found) == 1 else found for name, found in values.items()}


def _detail(element: Element) -> Any:
    if element.children:
        return as_objects(element.children, element.text, element.attributes)
    if element.attributes:
        return {**element.attributes, "pattern": element.text}
    return element.text
