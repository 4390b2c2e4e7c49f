"""Trees and their scans, for the tests of walking."""

import time
from pathlib import Path

from clusterd.settings import DEFAULT_RULES
from hashing.digest_cache import NO_ROWS, ShardRows, file_rows
from hashing.manifest import FileMeta
from hashing.rules import Rules
from hashing.walk import ShardScan, scan_shard

SECOND = 10**9


def soon() -> int:
    return time.time_ns() + 10 * SECOND


def write(root: Path, path: str, content: bytes = b"x") -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def scan(root: Path, previous: ShardRows = NO_ROWS, rules: Rules = DEFAULT_RULES, **options: object) -> ShardScan:
    options.setdefault("started_ns", soon())
    return scan_shard(str(root), rules, 0, 1, previous, **options)  # type: ignore[arg-type]


def rows_of(found: ShardScan) -> dict[str, FileMeta]:
    return {row.path: row for row in file_rows(found.rows)}
