"""A master's records of each worker's syncs, for `get_health` (wire.md 8.1) and `clusterd status`."""

from datetime import UTC, datetime
from typing import Any

import msgspec

NOT_YET = "n/a"


def stock_date(at: float | None) -> str:
    """Wall-clock seconds in stock's form: UTC, always six digits; `n/a` for None."""
    if at is None:
        return NOT_YET
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class WorkerRecord(msgspec.Struct):
    """One worker's last syncs. Times are wall-clock seconds. Written by the integrity master; `info_*` by the
    agent-info master, `groups_*` (incremental) and `all_groups_*` by the agent-groups master.

    `digest`: content digest of the worker's known manifest, empty while it changes; `equal_at`: when it was last equal
    to ours; `behind_since`: since when (monotonic; all other times are wall-clock) it differs, None while it does not;
    `behind_files`: how many files differed at the last comparison, None if unknown; `whole_of`: of which moment it was
    last known to have all files of ours, None if of none.

    `sent_bytes`: size of the last package. `problems`: path to reason of the files that the last sync could not send;
    `behind`: files left for a later round."""

    check_started_at: float | None = None
    check_ended_at: float | None = None
    sync_started_at: float | None = None
    sync_ended_at: float | None = None
    missing: int = 0
    shared: int = 0
    extra: int = 0
    synced_once: bool = False
    result: str = ""
    detail: str = ""
    behind: int = 0
    problems: dict[str, str] = msgspec.field(default_factory=dict)
    sent_bytes: int = 0
    digest: str = ""
    equal_at: float | None = None
    behind_since: float | None = None
    behind_files: int | None = None
    whole_of: float | None = None
    info_started_at: float | None = None
    info_ended_at: float | None = None
    info_chunks: int = 0
    groups_started_at: float | None = None
    groups_ended_at: float | None = None
    groups_chunks: int = 0
    groups_problem: str = ""
    all_groups_started_at: float | None = None
    all_groups_ended_at: float | None = None
    all_groups_chunks: int = 0

    def is_equal(self, digest: str, now: float) -> None:
        """The worker has the files of our manifest, which has this content digest."""
        self.digest, self.equal_at, self.whole_of = digest, now, now
        self.behind_since, self.behind_files = None, 0
        self.result, self.detail, self.behind, self.problems = "equal", "", 0, {}

    def failed(self, why: str) -> None:
        self.result, self.detail = "failed", why

    def is_behind(self, since: float, files: int | None = None) -> None:
        """The worker's manifest has differed from ours since `since` (monotonic) at the latest; `files` of them differ,
        if that is known."""
        if self.behind_since is None:
            self.behind_since = since
        self.behind_files = files

    def health(self, *, integrity_free: bool, info_free: bool, keepalive_at: float) -> dict[str, Any]:
        """The `status` object of get_health, keys in stock's order."""
        counts: dict[str, int] = {"missing": self.missing, "extra": self.extra, "shared": self.shared}
        if not self.synced_once:
            counts = {"missing": 0, "shared": 0, "extra": 0, "extra_valid": 0}
        return {
            "sync_integrity_free": integrity_free,
            "last_check_integrity": {
                "date_start_master": stock_date(self.check_started_at),
                "date_end_master": stock_date(self.check_ended_at),
            },
            "last_sync_integrity": {
                "date_start_master": stock_date(self.sync_started_at),
                "date_end_master": stock_date(self.sync_ended_at),
                "total_extra_valid": 0,
                "total_files": counts,
            },
            "sync_agent_info_free": info_free,
            "last_sync_agentinfo": {
                "date_start_master": stock_date(self.info_started_at),
                "date_end_master": stock_date(self.info_ended_at),
                "n_synced_chunks": self.info_chunks,
            },
            "last_sync_agentgroup": {
                "date_start": stock_date(self.groups_started_at),
                "date_end": stock_date(self.groups_ended_at),
                "n_synced_chunks": self.groups_chunks,
            },
            "last_sync_full_agentgroup": {
                "date_start": stock_date(self.all_groups_started_at),
                "date_end": stock_date(self.all_groups_ended_at),
                "n_synced_chunks": self.all_groups_chunks,
            },
            "last_keep_alive": stock_date(keepalive_at),
        }
