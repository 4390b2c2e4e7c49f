"""The answers of nodes, read to be merged. The items of a list stay the texts that the nodes have sent: as objects they
would take ten times the memory, and a list may have 256 MiB."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from clusterd.dapi.protocol.items import CLASS
from clusterd.errors import ClusterError
from clusterd.wire.results import MAX_JSON_BYTES, WireException, WireResult, dump_json, load_answer

_ITEMS = "affected_items"
_EMPTY = b'"affected_items": ['


class ItemText:
    """One item. `key`: by which it is sorted, once somebody has asked for it."""

    __slots__ = ("_text", "key")

    def __init__(self, text: msgspec.Raw) -> None:
        self._text = text
        self.key: list[Any] | None = None

    @property
    def text(self) -> memoryview:
        return memoryview(self._text)

    def value(self) -> Any:
        """Raises ClusterError 1000."""
        return load_answer(self.text)


class _ResultText(msgspec.Struct, forbid_unknown_fields=True, rename={"name": "__class__", "fields": "__object__"}):
    name: str
    fields: dict[str, msgspec.Raw]


class _AnswerText(msgspec.Struct, forbid_unknown_fields=True, rename={"result": "__wazuh_result__"}):
    result: _ResultText | None = None


_ANSWER = msgspec.json.Decoder(_AnswerText)
_LIST = msgspec.json.Decoder(list[msgspec.Raw])


def read_answer(content: bytes | memoryview) -> WireResult | WireException:
    """Reads the answer of a node. That of a list of items (Items.of_wire) has ItemTexts in the place of the items; they
    need `content`. Raises ClusterError 1000 for what is no answer."""
    try:
        result = _ANSWER.decode(content).result
        if result is not None and result.name == CLASS and _ITEMS in result.fields:
            items = [ItemText(item) for item in _LIST.decode(result.fields.pop(_ITEMS))]
            fields = load_answer(_object_of(result.fields))
            if isinstance(fields, dict):
                return WireResult(CLASS, {_ITEMS: items} | fields)
    except RecursionError:
        raise ClusterError(1000, "a node's answer is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass  # no list of items, or no JSON: load_answer tells; or NaN, which msgspec does not take
    if len(content) > MAX_JSON_BYTES:
        text = f"a node's answer of {len(content)} bytes is above the limit of {MAX_JSON_BYTES} for such answers"
        raise ClusterError(1000, f"{text}: ask for less at a time, or each node alone")
    value = load_answer(content)
    if isinstance(value, WireResult | WireException):
        return value
    raise ClusterError(1000, "a node's answer is neither a result nor an exception")


def _object_of(fields: Mapping[str, msgspec.Raw]) -> bytes:
    return b"{%b}" % b",".join(b"%b:%b" % (msgspec.json.encode(key), bytes(text)) for key, text in fields.items())


def pieces_of(answer: WireResult | WireException) -> Iterator[bytes | memoryview]:
    """Returns what `dump_json` would write, with ItemTexts as they are."""
    items = answer.fields.get(_ITEMS) if isinstance(answer, WireResult) else None
    if not isinstance(items, list) or not any(isinstance(item, ItemText) for item in items):
        yield dump_json(answer)
        return
    assert isinstance(answer, WireResult)
    # No value comes before the items: they are the first field.
    head, _, tail = dump_json(WireResult(CLASS, {**answer.fields, _ITEMS: []})).partition(_EMPTY)
    yield head + _EMPTY
    for number, item in enumerate(items):
        if number:
            yield b", "
        yield item.text if isinstance(item, ItemText) else dump_json(item)
    yield tail
