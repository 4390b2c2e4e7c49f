"""Merged files against the recorded ones (wire.md 5.10)."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from hashing.merged import Part, parse_merged
from tests.hashing.packages import build_merged

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "merged.json").read_text())
SPLIT = [VECTORS["all"] | {"name": "all"}, VECTORS["selection"] | {"name": "selection"}, *VECTORS["parse_cases"]]


def expected_parts(vector: dict[str, Any]) -> list[Part]:
    return [
        Part(part["path"].removeprefix("queue/TYPE/"), part["mtime_text"], base64.b64decode(part["content_b64"]))
        for part in vector["parts" if "parts" in vector else "stock_parts"]
    ]


@pytest.mark.parametrize(
    "vector", [case for case in SPLIT if case["name"] != "name_with_path"], ids=lambda vector: str(vector["name"])
)
def test_recorded_merged_file_splits_as_recorded(vector: dict[str, Any]) -> None:
    assert parse_merged(base64.b64decode(vector["merged_b64"])).parts == expected_parts(vector)


def test_part_whose_name_leads_elsewhere_is_refused() -> None:
    vector = next(case for case in VECTORS["parse_cases"] if case["name"] == "name_with_path")
    merged = parse_merged(base64.b64decode(vector["merged_b64"]))
    assert merged.parts == []
    assert [name for name, _ in merged.refused] == ["../x"]


@pytest.mark.parametrize("name", ["..", ".", "/etc/passwd", "a/b", "a\0b", "n" * 256, ".clusterd-0123.tmp"])
def test_only_the_part_with_a_bad_name_is_left_out(name: str) -> None:
    data = f"3 good 2020-11-23 10:51:23+00:00\nabc3 {name} 2020-11-23 10:51:23+00:00\ndef1 last x\ng".encode()
    merged = parse_merged(data)
    assert [(part.name, part.data) for part in merged.parts] == [("good", b"abc"), ("last", b"g")]
    assert [refused for refused, _ in merged.refused] == [name]
    assert not merged.malformed


def test_bad_header_is_logged_with_the_stock_text_and_its_newline() -> None:
    merged = parse_merged(b"3 a time\nabcnope\n")
    assert merged.parts == [Part("a", "time", b"abc")]
    error = "not enough values to unpack (expected 3, got 1)"
    assert merged.malformed == f"Malformed file ({error}). Parsed line: nope\n. Some files won't be synced"


@pytest.mark.parametrize(
    "header", [b"-1 a t\n", b"1.5 a t\n", b"9999999999999999999999 a t\n", b"1 a t", b"1 \xff t\n"]
)
def test_header_that_is_not_one_stops_the_split(header: bytes) -> None:
    assert parse_merged(header).parts == []
    assert parse_merged(header).malformed


def test_built_file_has_the_recorded_parts() -> None:
    files = [
        (source["name"], round(source["mtime"] * 1_000_000) * 1000, base64.b64decode(source["content_b64"]))
        for source in VECTORS["sources"]
    ]
    built = parse_merged(build_merged(files)).parts
    assert sorted(built, key=lambda part: part.name) == sorted(
        expected_parts(VECTORS["all"]), key=lambda part: part.name
    )


def test_files_of_a_merged_file_are_counted() -> None:
    """64 MiB of headers would be eleven million files."""
    merged = parse_merged(b"0 a t\n0 /b t\n" * 10, 5)
    assert (len(merged.parts), len(merged.refused)) == (3, 2)
    assert merged.malformed == "Malformed file (more than 5 parts). Some files won't be synced"
    assert not parse_merged(b"0 a t\n" * 5, 5).malformed
