"""Decoders of all files that the node loads (dapi.md 5.6)."""

from clusterd.dapi.functions.ruleset_files import ListFiles, wanted_files
from clusterd.dapi.protocol.actions import FILES
from clusterd.dapi.protocol.items import Items
from clusterd.dapi.protocol.registry import Call, Registry
from clusterd.dapi.query.arrays import Shape, cut_list
from clusterd.dapi.ruleset.config import DECODERS, loaded_files
from clusterd.dapi.ruleset.rows import all_rows, decoder_rows

registry = Registry()

_FIELDS = ("filename", "relative_dirname", "name", "position", "status", "details")
_PLACE = ("filename", "position")


class GetDecoders(ListFiles, frozen=True):
    """`parents`: only decoders that have no parent."""

    names: list[str] | None = None
    parents: bool = False


@registry.function(DECODERS.module, "get_decoders", needs=(FILES["decoder"].read,))
def get_decoders(call: Call, given: GetDecoders) -> Items:
    """Returns the decoders that pass all filters, by default sorted by file and position in it. A file that cannot be
    read is a failed item (1501, 1502). Raises WireException 1202 for an invalid status."""
    items = Items("All decoders were read", "Some decoders could not be read", "No decoder was found")
    files = wanted_files(loaded_files(call.settings, DECODERS), given)
    names = None if given.names is None else frozenset(given.names)
    rows = [
        row
        for row in all_rows(call, DECODERS, files, decoder_rows, items)
        if (names is None or row["name"] in names) and not (given.parents and "parent" in row["details"])
    ]
    items.affected, items.total = cut_list(rows, given, Shape(_FIELDS, _FIELDS, _PLACE, _PLACE))
    return items
