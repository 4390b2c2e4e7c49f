"""Rules of all files that the node loads: the rules, their groups, the requirements that they name (dapi.md 5.6)."""

import re
from typing import Any

from clusterd.dapi.functions.ruleset_files import ListFiles, wanted_files
from clusterd.dapi.protocol.actions import FILES
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Call, Registry
from clusterd.dapi.query.arrays import ListArguments, Shape, cut_list
from clusterd.dapi.ruleset.config import RULES, loaded_files
from clusterd.dapi.ruleset.rows import REQUIREMENTS, Row, all_rows, rule_rows
from clusterd.wire.results import BAD_REQUEST, WireException

registry = Registry()

STANDARDS = (*REQUIREMENTS, "mitre")
_LEVEL = re.compile(r"(\d{1,2})(?:-(\d{1,2}))?", re.ASCII)
_FIELDS = (
    "filename",
    "relative_dirname",
    "id",
    "level",
    "status",
    "details",
    *STANDARDS,
    "groups",
    "description",
)


class GetRules(ListFiles, frozen=True):
    """`level`: a number or a range (`2-4`); the other fields are values that a rule must have."""

    rule_ids: list[int | str] | None = None
    group: str | None = None
    level: str | int | None = None
    pci_dss: str | None = None
    gpg13: str | None = None
    gdpr: str | None = None
    hipaa: str | None = None
    nist_800_53: str | None = None
    tsc: str | None = None
    mitre: str | None = None


class GetRequirement(ListArguments, frozen=True, kw_only=True):
    """`requirement`: one of STANDARDS; hyphens in it count as underscores."""

    requirement: str


@registry.function(RULES.module, "get_rules", needs=(FILES["rule"].read,))
def get_rules(call: Call, given: GetRules) -> Items:
    """Returns the rules that pass all filters, by default sorted by id. A file that cannot be read is a failed item
    (1413, 1414). Raises WireException 1202 for an invalid level or status."""
    first, last = _levels(given.level)
    items = Items("All rules were read", "Some rules could not be read", "No rule was found")
    files = wanted_files(loaded_files(call.settings, RULES), given)
    numbers = None if given.rule_ids is None else frozenset(map(str, given.rule_ids))
    wanted = {standard: getattr(given, standard) for standard in STANDARDS} | {"groups": given.group}
    rows = [
        row
        for row in all_rows(call, RULES, files, rule_rows, items)
        if first <= row["level"] <= last
        and (numbers is None or str(row["id"]) in numbers)
        and all(value is None or value in row[field] for field, value in wanted.items())
    ]
    items.affected, items.total = cut_list(rows, given, Shape(_FIELDS, _FIELDS, ("id",), ("id",)))
    return items


@registry.function(RULES.module, "get_groups", needs=(FILES["rule"].read_all,))
def get_groups(call: Call, given: ListArguments) -> Items:
    """Returns the names of all groups of rules, sorted. Failed items as get_rules."""
    return _values(call, given, "groups", "groups of rules")


@registry.function(RULES.module, "get_requirement", needs=(FILES["rule"].read_all,))
def get_requirement(call: Call, given: GetRequirement) -> Items:
    """Returns the requirements of one standard that any rule names, sorted. Failed items as get_rules. Raises
    WireException 1202 for another standard."""
    standard = given.requirement.replace("-", "_")
    if standard not in STANDARDS:
        raise WireException(1202, f"requirement: {', '.join(STANDARDS)}", wire_class=BAD_REQUEST)
    return _values(call, given, standard, f"requirements of {standard}")


def _values(call: Call, given: ListArguments, field: str, words: str) -> Items:
    items = Items(f"All {words} were read", f"Some {words} could not be read", f"There are no {words}")
    rows: list[Row] = all_rows(call, RULES, loaded_files(call.settings, RULES), rule_rows, items)
    values: list[Any] = sorted({value for row in rows for value in row[field]})
    items.affected, items.total = cut_list(values, given, Shape(default_sort=("",)))
    return items


def _levels(given: str | int | None) -> tuple[int, int]:
    if given is None:
        return 0, 10**9
    found = _LEVEL.fullmatch(str(given))
    if found is None:
        raise WireException(1202, "level: a number, or two with a hyphen between them", wire_class=BAD_REQUEST)
    return int(found[1]), int(found[2] or found[1])
