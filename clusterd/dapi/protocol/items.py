"""A list of what was done and what failed, `AffectedItemsWazuhResult` (dapi.md 4.3): builds, receives and shows it."""

from collections.abc import Iterable, Sequence
from typing import Any

from clusterd.wire.results import WireException, WireResult, exception_of

CLASS = "AffectedItemsWazuhResult"
LONGEST_NUMBER = 1000
"""Digits: a node may answer any."""
_REQUIRED = (
    "affected_items",
    "sort_fields",
    "sort_casting",
    "sort_ascending",
    "total_affected_items",
    "dikt",
    "all_msg",
    "some_msg",
    "none_msg",
    "failed_items_keys",
    "failed_items_values",
)


class Items:
    """`affected`: the items; `total`: their number before paging, None for the length of `affected`; `extra`: further
    keys of `data`. The sort settings control how lists of several nodes are merged."""

    def __init__(
        self,
        all_msg: str,
        some_msg: str = "",
        none_msg: str = "",
        *,
        affected: Iterable[Any] = (),
        total: int | None = None,
        sort_fields: Sequence[str] | None = None,
        sort_casting: Sequence[str] = ("str",),
        sort_ascending: Sequence[bool] = (True,),
    ) -> None:
        self.messages = (all_msg, some_msg, none_msg)
        self.affected = list(affected)
        self.total = total
        self.sort_fields = None if sort_fields is None else list(sort_fields)
        self.sort_casting = list(sort_casting)
        self.sort_ascending = list(sort_ascending)
        self.extra: dict[str, Any] = {}
        self._failed: dict[str, tuple[WireException, dict[str, Any]]] = {}

    # ---- failures ----------------------------------------------------------------------------------------------------

    def fail(self, item: Any, error: WireException) -> None:
        """Adds a failed item."""
        self.fail_all([item], error)

    def fail_all(self, items: Iterable[Any], error: WireException) -> None:
        """Adds failed items. Equal errors (dapi.md 4.3, rule 4) share one entry."""
        added = {repr(item): item for item in items}
        if added:
            fields = {key: value for key, value in error.fields().items() if key not in ("ids", "dapi_errors")}
            self._failed.setdefault(repr(sorted(fields.items())), (error, {}))[1].update(added)

    def drop_failed(self, codes: Iterable[int]) -> None:
        """Drops failures of these codes (dapi.md 3.8, the last point)."""
        unwanted = frozenset(codes)
        self._failed = {key: entry for key, entry in self._failed.items() if entry[0].code not in unwanted}

    @property
    def failed(self) -> list[tuple[WireException, list[Any]]]:
        """Returns each error with the items that it applies to, in the order in which the errors were added."""
        return [(error, list(ids.values())) for error, ids in self._failed.values()]

    @property
    def total_affected(self) -> int:
        return len(self.affected) if self.total is None else self.total

    @property
    def total_failed(self) -> int:
        return sum(len(ids) for _, ids in self._failed.values())

    # ---- the wire ----------------------------------------------------------------------------------------------------

    def wire(self) -> WireResult:
        """Returns the value for `dump_json`, keys in stock's order."""
        failed = self.failed
        return WireResult(
            CLASS,
            {
                "affected_items": self.affected,
                "sort_fields": self.sort_fields,
                "sort_casting": self.sort_casting,
                "sort_ascending": self.sort_ascending,
                "total_affected_items": self.total_affected,
                "total_failed_items": self.total_failed,
                "dikt": self.extra,
                "all_msg": self.messages[0],
                "some_msg": self.messages[1],
                "none_msg": self.messages[2],
                "failed_items_keys": [
                    {"__object__": error.fields(), "__class__": error.wire_class} for error, _ in failed
                ],
                "failed_items_values": [ids for _, ids in failed],
            },
        )

    @classmethod
    def of_wire(cls, result: WireResult) -> "Items":
        """Reads a received result. Raises WireException 1000 for missing fields or a wrong type."""
        fields = result.fields
        if result.wire_class != CLASS or any(key not in fields for key in _REQUIRED):
            raise _malformed("a list of affected items without all of its fields")
        for key, kind in _KINDS.items():
            if not isinstance(fields[key], kind):
                raise _malformed(f"{key} of a list of affected items is no {kind}")
        items = cls(
            fields["all_msg"] or "",
            fields["some_msg"] or "",
            fields["none_msg"] or "",
            affected=fields["affected_items"],
            total=fields["total_affected_items"],
            sort_fields=fields["sort_fields"],
            sort_casting=fields["sort_casting"],
            sort_ascending=fields["sort_ascending"],
        )
        items.extra = fields["dikt"]
        keys, values = fields["failed_items_keys"], fields["failed_items_values"]
        if len(keys) != len(values):
            raise _malformed("failed items without as many errors")
        for key, ids in zip(keys, values, strict=True):
            if not isinstance(key, dict) or not isinstance(ids, list) or not isinstance(key.get("__object__"), dict):
                raise _malformed("a failed item is none")
            items.fail_all(ids, exception_of(str(key.get("__class__")), key["__object__"]))
        return items

    # ---- people ------------------------------------------------------------------------------------------------------

    @property
    def message(self) -> str:
        all_msg, some_msg, none_msg = self.messages
        if not self.total_affected:
            return none_msg or all_msg
        return some_msg or all_msg if self._failed else all_msg

    def rendered(self) -> dict[str, Any]:
        """Returns the body of the REST answer (dapi.md 4.3): `{"data", "message", "error"}`."""
        failed = sorted(self.failed, key=lambda entry: entry[0].code)
        data: dict[str, Any] = {
            "affected_items": self.affected,
            "total_affected_items": self.total_affected,
            "total_failed_items": self.total_failed,
            "failed_items": [{"error": _shown_error(error), "id": _in_order(ids)} for error, ids in failed],
        }
        code = 0 if not failed else (2 if self.total_affected else 1)
        return {"data": data | self.extra, "message": self.message, "error": code}


_KINDS: dict[str, type | tuple[type, ...]] = {
    "affected_items": list,
    "sort_fields": (list, type(None)),
    "sort_casting": list,
    "sort_ascending": list,
    "total_affected_items": int,
    "dikt": dict,
    "all_msg": (str, type(None)),
    "some_msg": (str, type(None)),
    "none_msg": (str, type(None)),
    "failed_items_keys": list,
    "failed_items_values": list,
}


def _malformed(text: str) -> WireException:
    return WireException(1000, text, cmd_error=True)


def _shown_error(error: WireException) -> dict[str, Any]:
    shown: dict[str, Any] = {"code": error.code, "message": error.message}
    if error.remediation:
        shown["remediation"] = error.remediation
    return shown


def _in_order(ids: list[Any]) -> list[Any]:
    """Sorts numerically if all are numbers that Python reads, else as text."""
    if all(str(item).isdecimal() and len(str(item)) <= LONGEST_NUMBER for item in ids):
        return sorted(ids, key=int)
    return sorted(ids, key=str)
