"""Journal events about syncs of files."""

from collections.abc import Mapping

from clusterd.messages.journal import LONGEST_TEXT, MANIFEST_DIGITS, LeftOut, SyncEvent
from clusterd.sync.links.records import WorkerRecord

MOST_LEFT_OUT = 100
LONGEST_WHY = 200


def sent_event(
    worker: str, record: WorkerRecord, what: str, content: str, seconds: float, result: str, why: str
) -> SyncEvent:
    """Tells that a master has sent a worker a package, or failed to. `content`: content digest of the files sent;
    `result`: as in WorkerRecord; `why`: why the sync is not complete."""
    is_failed = result == "failed"
    left_out = () if is_failed else left_out_of(record.problems)
    return SyncEvent(
        worker=worker,
        what=what,
        manifest=content[:MANIFEST_DIGITS],
        files=0 if is_failed else record.missing + record.shared + record.extra,
        bytes=record.sent_bytes,
        seconds=round(seconds, 3),
        result="failed" if is_failed else "partial" if result == "partly" or left_out else "ok",
        why=why[:LONGEST_TEXT],
        left_out=left_out,
    )


def applied_event(
    worker: str, result: str, why: str, files: int, packed: int, seconds: float, problems: Mapping[str, str]
) -> SyncEvent:
    """Tells that a worker has applied a package of `packed` bytes, or failed to. `result`: as in LastSync."""
    return SyncEvent(
        worker=worker,
        what="files",
        files=files,
        bytes=packed,
        seconds=round(seconds, 3),
        result="failed" if result == "failed" else "partial" if result == "partly" else "ok",
        why=why[:LONGEST_TEXT],
        left_out=left_out_of(problems),
    )


def left_out_of(problems: Mapping[str, str]) -> tuple[LeftOut, ...]:
    """Returns the first files that were not sent or not written, with the reasons."""
    return tuple(LeftOut(path, why[:LONGEST_WHY]) for path, why in list(problems.items())[:MOST_LEFT_OUT])
