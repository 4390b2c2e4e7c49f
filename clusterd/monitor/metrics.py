"""The text for Prometheus: samples from the board, the status and the counts of events, written by
prometheus-client."""

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate, islice
from typing import Any

import msgspec
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from clusterd import vitals
from clusterd.monitor.event_counts import SYNC_BOUNDS_S, EventCounts
from clusterd.monitor.live import check_processes
from clusterd.monitor.metric_table import TABLE, Metric
from clusterd.monitor.secrets_age import SecretsAge
from clusterd.monitor.source import NodeSeen
from clusterd.status.status import REFUSALS
from ipc.board import LATE_BOUNDS_S, RowSnapshot

LEVELS = {"OK": 0, "DEGRADED": 1, "DOWN": 2}
STATES = ("connected", "lost", "expected")
MOST_NODES = 1000
RESULTS = ("equal", "synced", "partly", "failed", "unknown", "lost")


class Own(msgspec.Struct, frozen=True):
    """Counted by the monitor itself: answers by path and status, viewers."""

    answers: Mapping[tuple[str, int], int]
    viewers: int


class Samples:
    """The samples of one scrape. Every name is one of TABLE; a value of None is left out."""

    def __init__(self) -> None:
        self.by_name: dict[str, list[tuple[Any, ...]]] = {}
        """The arguments of `add_metric` of the library's families."""

    def add(self, name: str, value: float | None, *labels: str) -> None:
        if value is not None:
            self._of(name, labels).append((labels, value))

    def histogram(
        self, name: str, bounds: Sequence[float], buckets: Sequence[int], seconds: float, *labels: str
    ) -> None:
        """`buckets`: how many were within each bound, and beyond the last one."""
        pairs = zip((*map(str, bounds), "+Inf"), accumulate(buckets), strict=True)
        self._of(name, labels).append((labels, tuple(pairs), seconds))

    def _of(self, name: str, labels: Sequence[str]) -> list[tuple[Any, ...]]:
        if len(labels) != len(_LABELS[name]):  # the library leaves out what is missing
            raise ValueError(f"{name} has the labels {_LABELS[name]}, not {labels}")
        return self.by_name.setdefault(name, [])


_LABELS = {metric.name: metric.labels for metric in TABLE}
_FAMILIES: dict[str, Any] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Exposition:
    """Writes scrapes with prometheus-client. It takes 9 us a sample, and most samples do not change: a metric's text is
    kept until one of its samples changes."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[list[tuple[Any, ...]], bytes]] = {}

    def text(self, samples: Samples) -> bytes:
        """Metrics in the order of the table."""
        return b"".join(
            self._text_of(metric, samples.by_name[metric.name]) for metric in TABLE if metric.name in samples.by_name
        )

    def _text_of(self, metric: Metric, rows: list[tuple[Any, ...]]) -> bytes:
        kept, text = self._kept.get(metric.name, (None, b""))
        if kept != rows:
            family = _FAMILIES[metric.kind](metric.name, metric.text, labels=metric.labels)
            for row in rows:
                family.add_metric(*row)
            text = generate_latest(_Only(family))
            self._kept[metric.name] = rows, text
        return text


class _Only(Collector):
    """Stands for a registry of one metric."""

    def __init__(self, family: Any) -> None:
        self._family = family

    def collect(self) -> Iterable[Any]:
        return (self._family,)


def program_version() -> str:
    try:
        return version("clusterd")
    except PackageNotFoundError:
        return "unknown"


PROGRAM = program_version()


def take_samples(
    rows: Sequence[RowSnapshot],
    seen: NodeSeen | None,
    counts: EventCounts,
    secrets: SecretsAge,
    own: Own,
    *,
    journal: Mapping[str, int],
) -> Samples:
    """Returns the samples of one scrape. `journal`: the counters of this process's row."""
    samples = Samples()
    _processes(samples, rows)
    if seen is not None:
        _node(samples, seen)
        if seen.is_fresh:
            _files(samples, seen.status)
            _workers(samples, seen.status)
            _agents(samples, seen.status)
            _jobs(samples, seen.status)
    else:
        samples.add("clusterd_answers", 0)
    for name, labels, value in counts.counts():
        samples.add(name, value, *labels)
    for what, buckets, seconds in counts.sync_seconds():
        samples.histogram("clusterd_sync_seconds", SYNC_BOUNDS_S, buckets, seconds, what)
    for path, moment in secrets.expiry.items():
        samples.add("clusterd_certificate_expiry_timestamp_seconds", moment, path)
    for path, moment in secrets.modified.items():
        samples.add("clusterd_secret_modified_timestamp_seconds", moment, path)
    _monitor(samples, own, journal)
    return samples


# ---- from the board --------------------------------------------------------------------------------------------------


def _processes(samples: Samples, rows: Sequence[RowSnapshot]) -> None:
    now = time.monotonic()
    looked_at = {row.pid: vitals.read(row.pid) for row in rows if row.pid}
    for row, check in zip(rows, check_processes(rows, now, looked_at.get), strict=True):
        name = row.name
        samples.add("clusterd_process_up", 0 if check.problem else 1, name)
        if row.heartbeat_ns:
            samples.add("clusterd_process_heartbeat_age_seconds", max(0.0, now - row.heartbeat_ns / 1e9), name)
        samples.add("clusterd_process_restarts_total", row.restarts, name)
        samples.add("clusterd_process_log_lines_lost_total", row.log_lost, name)
        samples.add("clusterd_process_uss_bytes", row.own_bytes or None, name)
        spent = looked_at.get(row.pid)
        samples.add("clusterd_process_cpu_seconds_total", spent.cpu_s if spent is not None else None, name)
        if row.late:
            samples.histogram("clusterd_loop_lateness_seconds", LATE_BOUNDS_S, row.late, row.late_s, name)
        _counters(samples, row)


def _counters(samples: Samples, row: RowSnapshot) -> None:
    counters = row.counters
    if row.name == "net":
        for what in ("connections", "handshakes", "local_clients"):
            samples.add(f"clusterd_net_{what}", counters[what])
        for direction in ("in", "out"):
            samples.add("clusterd_net_frames_total", counters[f"frames_{direction}"], direction)
            samples.add("clusterd_net_bytes_total", counters[f"bytes_{direction}"], direction)
        samples.add("clusterd_net_requests_total", counters["requests"])
        samples.add("clusterd_net_work_longest_seconds", counters["work_max_us"] / 1e6)
        samples.add("clusterd_net_work_slow_total", counters["work_over_5ms"])
        samples.add("clusterd_refusals_total", counters["refused"], "bounds")
        for reason in REFUSALS:
            samples.add("clusterd_refusals_total", counters[f"refused_{reason}"], reason)
    elif row.name == "sync":
        samples.add("clusterd_jobs_queued", counters["jobs_queued"])
        samples.add("clusterd_jobs_running", counters["jobs_running"])
    elif row.name == "store":
        samples.add("clusterd_store_connections", counters["connections"])
        for what in ("requests", "commits", "writes"):
            samples.add(f"clusterd_store_{what}_total", counters[what])
    elif row.name == "api":
        samples.add("clusterd_api_connections", counters["connections"])
        for what in ("requests", "refused", "failed"):
            samples.add(f"clusterd_api_{what}_total", counters[what])
    elif "busy_us" in counters:
        samples.add("clusterd_pool_busy_seconds_total", counters["busy_us"] / 1e6, row.name)
    if "slabs" in counters:
        samples.add("clusterd_slabs", counters["slabs"], row.name)
        samples.add("clusterd_slabs_free", counters["slabs_free"], row.name)


def _monitor(samples: Samples, own: Own, journal: Mapping[str, int]) -> None:
    for (path, status), count in own.answers.items():
        samples.add("clusterd_monitor_answers_total", count, path, str(status))
    samples.add("clusterd_monitor_viewers", own.viewers)
    for name, counter in (
        ("clusterd_journal_events", "rows"),
        ("clusterd_journal_bytes", "bytes"),
        ("clusterd_journal_heard_total", "events"),
        ("clusterd_journal_lost_total", "lost"),
        ("clusterd_journal_unwritten_total", "unwritten"),
    ):
        samples.add(name, journal.get(counter))


# ---- from the status -------------------------------------------------------------------------------------------------


def _node(samples: Samples, seen: NodeSeen) -> None:
    status = seen.status
    node = status["node"] or {}
    samples.add(
        "clusterd_build_info", 1, *(str(node.get(key) or "") for key in ("name", "type", "cluster", "version")),
        PROGRAM, platform.python_version(),
    )  # fmt: skip
    samples.add("clusterd_verdict", LEVELS[status["verdict"]["level"]])
    samples.add("clusterd_answers", 1 if seen.is_fresh else 0)
    samples.add("clusterd_answer_age_seconds", seen.age_s)
    samples.add("clusterd_start_time_seconds", status["started_at"])
    samples.add("clusterd_problems", len(status["problems"]) + bool(status["problem"]))
    samples.add("clusterd_settings_waiting", len(node.get("needs_restart") or ()))
    spool = status["spool"] or {}
    for name, key in (("spool_bytes", "used"), ("spool_limit_bytes", "limit")):
        samples.add(f"clusterd_{name}", spool.get(key))
    samples.add("clusterd_disk_free_bytes", spool.get("disk_free"))
    samples.add("clusterd_disk_reserve_bytes", spool.get("disk_reserve"))


def _files(samples: Samples, status: dict[str, Any]) -> None:
    manifest = status["manifest"] or {}
    scan = manifest.get("last_scan") or {}
    for name, value in (
        ("files", manifest.get("files")),
        ("files_bytes", manifest.get("total_bytes")),
        ("files_withheld", manifest.get("withheld")),
        ("files_unreadable", len(scan["problems"]) if "problems" in scan else None),
        ("files_watched", bool(manifest.get("watching"))),
        ("scan_failing", bool(manifest.get("failure"))),
        ("scan_end_timestamp_seconds", scan.get("ended_at")),
        ("scan_seconds", scan.get("duration_s")),
    ):
        samples.add(f"clusterd_{name}", value)


def _workers(samples: Samples, status: dict[str, Any]) -> None:
    node, spool = status["node"] or {}, (status["spool"] or {}).get("peers") or {}
    now = time.time()
    samples.add("clusterd_syncs_running", len(status["syncs"]))
    samples.add("clusterd_refused_nodes", len(status["refused"]))
    if node.get("type") == "master":
        states = [row["state"] for row in status["workers"]]
        for state in STATES:
            samples.add("clusterd_workers", states.count(state), state)
        for row in status["workers"]:
            name = row["name"]
            samples.add("clusterd_worker_connected", row["state"] == "connected", name)
            samples.add("clusterd_worker_keepalive_age_seconds", max(0.0, now - row["seen_at"]), name)
            samples.add("clusterd_worker_spool_bytes", spool.get(name, 0), name)
            result = status["results"].get(name)
            if result is not None:
                told = status["left_out"].get(name, {"count": 0})  # beside it: what the master cannot send
                left_out = told["count"] + len(result["problems"])
                _result(samples, name, result, left_out, is_here=row["state"] == "connected")
    else:
        name = str(node.get("name"))
        masters = [peer for peer in status["peers"] if peer["kind"] == "master"]
        samples.add("clusterd_worker_connected", bool(masters), name)
        heard = [peer["keepalive_at"] or peer["connected_at"] for peer in masters]
        samples.add("clusterd_worker_keepalive_age_seconds", max(0.0, now - heard[0]) if heard else None, name)
        if "self" in status["results"]:
            own = status["results"]["self"]
            left_out = max(status["left_out"].get(name, {"count": 0})["count"], len(own["problems"]))
            _result(samples, name, own, left_out, is_here=bool(masters))


def _result(samples: Samples, name: str, result: dict[str, Any], left_out: int, *, is_here: bool) -> None:
    """How far an absent worker lags is unknown."""
    if is_here and "lag_s" in result:
        samples.add("clusterd_worker_lag_seconds", result["lag_s"] or 0.0, name)
        samples.add("clusterd_worker_lag_files", result["lag_files"], name)
    for what, key in (("missing", "created"), ("shared", "updated"), ("extra", "deleted")):
        samples.add("clusterd_worker_files", result[key], name, what)
    samples.add("clusterd_worker_files_left_out", left_out, name)
    if result["result"] in RESULTS:
        samples.add("clusterd_worker_result", 1, name, result["result"])
    samples.add("clusterd_worker_check_timestamp_seconds", result["checked_at"], name)
    samples.add("clusterd_worker_sync_timestamp_seconds", result["synced_at"], name)


def _agents(samples: Samples, status: dict[str, Any]) -> None:
    agents = status["agents"] or {}
    samples.add("clusterd_agents_database_up", 0 if agents.get("problem") else 1)
    for node, counts in islice((agents.get("nodes") or {}).items(), MOST_NODES):
        for state, count in counts.items():
            samples.add("clusterd_agents", count, node, state)
    samples.add("clusterd_agents_to_report", agents.get("to_report"))
    samples.add("clusterd_agents_to_hand_out", agents.get("to_hand_out"))


def _jobs(samples: Samples, status: dict[str, Any]) -> None:
    framework = status["framework"] or {}
    if "python" in framework:
        samples.add("clusterd_framework_processes", len(framework["helpers"]))
        samples.add("clusterd_framework_rss_bytes", sum(helper["rss_bytes"] or 0 for helper in framework["helpers"]))
    jobs = status["jobs"] or {"bounds_s": [], "kinds": {}}
    for task, facts in jobs["kinds"].items():
        samples.histogram("clusterd_job_seconds", jobs["bounds_s"], facts["buckets"], facts["seconds"], task)
        samples.add("clusterd_job_failures_total", facts["failed"], task)
