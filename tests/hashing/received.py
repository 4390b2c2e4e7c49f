"""Packages as other nodes build them, for the tests of unpacking."""

import json
from collections.abc import Iterable, Mapping

import msgspec

from hashing.errors import Note
from hashing.metadata_json import WireMeta
from hashing.package import METADATA_NAME
from tests.hashing.packages import build_as_stock, wire_of


def metadata(
    missing: Mapping[str, WireMeta], shared: Mapping[str, WireMeta] | None = None, extra: Iterable[str] = ()
) -> tuple[str, bytes]:
    groups = {"missing": missing, "extra": {path: wire_of(path) for path in extra}, "shared": shared or {}}
    return METADATA_NAME, json.dumps(msgspec.to_builtins(groups)).encode()


def package_of(files: Mapping[str, bytes], level: int = 1) -> bytes:
    announced = {path: wire_of(path, data) for path, data in files.items()}
    return build_as_stock([*files.items(), metadata(announced)], level)


def reasons(notes: Iterable[Note]) -> dict[str, str]:
    return {note.path: note.why for note in notes if note.why}


def merged_meta(path: str, data: bytes) -> WireMeta:
    return wire_of(path, data, "etc/shared/", merged=True, merge_type="TYPE", merge_name="/x")
