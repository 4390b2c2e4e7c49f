"""The text of a scrape, read by Prometheus' own library and by promtool."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from clusterd.messages.journal import ChangeEvent, LoginEvent, ProcessEvent, RegistrationEvent, SyncEvent, WorkerEvent
from clusterd.monitor.event_counts import EventCounts
from clusterd.monitor.metric_table import TABLE
from clusterd.monitor.metrics import Exposition, Own, Samples, take_samples
from clusterd.monitor.secrets_age import SecretFiles, SecretsAge
from clusterd.monitor.source import NodeSeen
from clusterd.settings import ApiSettings, Clusterd, Settings
from tests.monitor.fake_status import board_of_node, status_of_master
from tools.api_setup import self_signed

PAGE = Path(__file__).parents[2] / "docs/monitoring.md"
Found = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: bytes) -> Found:
    """Name and labels to value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(found: Found, name: str, **labels: str) -> float | None:
    return found.get((f"clusterd_{name}", frozenset(labels.items())))


def counted() -> EventCounts:
    counts = EventCounts()
    for event in (
        SyncEvent(worker="worker-00", what="files", files=3, bytes=500, seconds=0.02),
        SyncEvent(worker="worker-00", what="ahead", files=1, bytes=50, seconds=900.0, result="failed"),
        ChangeEvent(manifest="ab", source="events", added=2, deleted=1),
        WorkerEvent(worker="worker-00", what="lost"),
        RegistrationEvent(what="added"),
        LoginEvent(user="a", result="refused"),
        ProcessEvent(process="net", what="something new"),
    ):
        counts.take(event)
    return counts


def scrape(directory: Path, status: dict[str, Any] | None, *, is_fresh: bool = True) -> bytes:
    board = board_of_node(directory)
    board.row("sync").late(0.003)
    board.row("sync").set_own_bytes(12345)
    board.row("net").set("refused_cluster", 4)
    seen = None
    if status is not None:
        said = {"verdict": {"level": "OK" if is_fresh else "DOWN", "reason": ""}}
        seen = NodeSeen(status | said, is_fresh, 1.0, 0.5 if is_fresh else 60.0)
    secrets = SecretsAge({"etc/clusterd-api.crt": 2e9}, {"etc/client.keys": 1e9})
    own = Own({("/metrics", 200): 5}, 3)
    journal = {"rows": 1, "bytes": 2, "events": 3, "lost": 0, "unwritten": 0}
    try:
        return Exposition().text(take_samples(board.rows(), seen, counted(), secrets, own, journal=journal))
    finally:
        board.close()


def test_scrape_says_what_the_node_knows(tmp_path: Path) -> None:
    status = status_of_master()
    status["workers"][1]["state"] = "lost"
    status["results"]["worker-00"] |= {"lag_s": 12.5, "lag_files": 4, "problems": {"etc/a": "mounted"}}
    status["left_out"] = {
        "worker-00": {"count": 9, "files": {"etc/b": "read-only"}, "at": 1.0},
        "worker-01": {"count": 1, "files": {"etc/b": "read-only"}, "at": 1.0},
    }
    status["results"]["worker-00"]["problems"] |= {"etc/c": "too large"}
    found = read(scrape(tmp_path, status))
    for name, labels, expected in (
        ("verdict", {}, 0),
        ("answers", {}, 1),
        ("process_up", {"process": "net"}, 1),
        ("process_uss_bytes", {"process": "sync"}, 12345),
        ("loop_lateness_seconds_bucket", {"process": "sync", "le": "0.001"}, 0),
        ("loop_lateness_seconds_bucket", {"process": "sync", "le": "0.005"}, 1),
        ("loop_lateness_seconds_count", {"process": "sync"}, 1),
        ("refusals_total", {"reason": "cluster"}, 4),
        ("refusals_total", {"reason": "key"}, 0),
        ("files", {}, 85),
        ("workers", {"state": "connected"}, 1),
        ("workers", {"state": "lost"}, 1),
        ("worker_connected", {"worker": "worker-01"}, 0),
        ("worker_lag_seconds", {"worker": "worker-00"}, 12.5),
        ("worker_lag_files", {"worker": "worker-00"}, 4),
        ("worker_lag_seconds", {"worker": "worker-01"}, None),
        ("worker_files", {"worker": "worker-00", "what": "shared"}, 2),
        ("worker_files_left_out", {"worker": "worker-00"}, 11),
        ("worker_files_left_out", {"worker": "worker-01"}, 1),
        ("worker_result", {"worker": "worker-00", "result": "equal"}, 1),
        ("worker_spool_bytes", {"worker": "worker-00"}, 7),
        ("job_seconds_bucket", {"task": "ScanShard", "le": "1.0"}, 5),
        ("job_seconds_sum", {"task": "ScanShard"}, 2.5),
        ("job_failures_total", {"task": "ScanShard"}, 1),
        ("syncs_total", {"worker": "worker-00", "result": "failed"}, 1),
        ("sync_bytes_total", {"worker": "worker-00"}, 550),
        ("sync_seconds_bucket", {"what": "ahead", "le": "600.0"}, 0),
        ("sync_seconds_bucket", {"what": "ahead", "le": "+Inf"}, 1),
        ("changed_files_total", {"what": "added"}, 2),
        ("logins_total", {"result": "refused"}, 1),
        ("process_events_total", {"what": "other"}, 1),
        ("agents", {"node": "worker-01", "status": "active"}, 100),
        ("certificate_expiry_timestamp_seconds", {"file": "etc/clusterd-api.crt"}, 2e9),
        ("secret_modified_timestamp_seconds", {"file": "etc/client.keys"}, 1e9),
        ("monitor_answers_total", {"path": "/metrics", "status": "200"}, 5),
        ("monitor_viewers", {}, 3),
    ):
        assert value(found, name, **labels) == expected, (name, labels)


def test_values_that_sync_no_longer_reports_are_left_out(tmp_path: Path) -> None:
    found = read(scrape(tmp_path, status_of_master(), is_fresh=False))
    assert (value(found, "answers"), value(found, "verdict"), value(found, "answer_age_seconds")) == (0, 2, 60.0)
    assert value(found, "process_up", process="net") == 1
    names = {name for name, _ in found}
    assert not {"clusterd_files", "clusterd_workers", "clusterd_worker_lag_seconds", "clusterd_agents"} & names


def test_node_that_was_never_read_can_be_scraped(tmp_path: Path) -> None:
    found = read(scrape(tmp_path, None))
    assert (value(found, "answers"), value(found, "process_up", process="sync")) == (0, 1)


def test_worker_shows_itself(tmp_path: Path) -> None:
    status = status_of_master(0)
    status["node"] |= {"name": "w", "type": "worker"}
    status["peers"] = [{"name": "m", "kind": "master", "keepalive_at": None, "connected_at": 5.0}]
    status["results"] = {
        "self": {
            "result": "partly", "checked_at": 1.0, "synced_at": 2.0, "created": 1, "updated": 0, "deleted": 0,
            "problems": {"etc/a": "mounted"},
        }
    }  # fmt: skip
    found = read(scrape(tmp_path, status))
    assert value(found, "worker_connected", worker="w") == 1
    assert value(found, "worker_result", worker="w", result="partly") == 1
    assert value(found, "worker_files_left_out", worker="w") == 1
    assert value(found, "worker_lag_seconds", worker="w") is None, "only its master knows"


def test_labels_are_bounded_by_the_nodes_of_the_cluster(tmp_path: Path) -> None:
    few, more = (len(read(scrape(tmp_path, status_of_master(count)))) for count in (10, 50))
    for_each = (more - few) / 40
    assert for_each <= 20
    assert few - 10 * for_each < 250


def test_text_of_others_cannot_break_a_line() -> None:
    samples = Samples()
    samples.add("clusterd_worker_connected", True, 'a"b\\c\nd')
    assert read(Exposition().text(samples)) == {
        ("clusterd_worker_connected", frozenset({("worker", 'a"b\\c\nd')})): 1.0
    }
    with pytest.raises(ValueError):
        samples.add("clusterd_worker_connected", 1)
    with pytest.raises(KeyError):
        samples.add("clusterd_unheard_of", 1)


def test_scrape_says_what_has_changed_since_the_last_one() -> None:
    exposition = Exposition()

    def found(age_s: float, **workers: bool) -> Found:
        samples = Samples()
        samples.add("clusterd_answer_age_seconds", age_s)
        for name, is_connected in workers.items():
            samples.add("clusterd_worker_connected", is_connected, name)
        samples.histogram("clusterd_sync_seconds", (1.0,), (int(age_s), 0), 1.5, "files")
        return read(exposition.text(samples))

    def expected(age_s: float, **workers: bool) -> Found:
        told = {("clusterd_answer_age_seconds", frozenset[tuple[str, str]]()): age_s}
        told |= {("clusterd_worker_connected", frozenset({("worker", name)})): is_on for name, is_on in workers.items()}
        for end, more, count in (
            ("bucket", {"le": "1.0"}, age_s), ("bucket", {"le": "+Inf"}, age_s), ("count", {}, age_s), ("sum", {}, 1.5),
        ):  # fmt: skip
            told[f"clusterd_sync_seconds_{end}", frozenset({"what": "files", **more}.items())] = count
        return told

    for age_s, workers in (
        (1, {"a": True}),
        (2, {"a": True}),
        (2, {"a": False}),
        (2, {"b": False}),
        (2, {}),
        (3, {"b": 1}),
    ):
        assert found(age_s, **workers) == expected(age_s, **workers)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_nothing_wrong(tmp_path: Path) -> None:
    text = scrape(tmp_path, status_of_master(3))
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_every_metric_is_in_the_document_and_no_other() -> None:
    rows = re.findall(r"^\| `(clusterd_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    documented = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows]
    assert documented == [(metric.name, metric.kind, metric.labels, metric.text) for metric in TABLE]


def test_metrics_that_are_named_elsewhere_exist() -> None:
    root = PAGE.parents[1]
    known = {metric.name for metric in TABLE}
    known |= {
        f"{metric.name}_{end}" for metric in TABLE if metric.kind == "histogram" for end in ("bucket", "sum", "count")
    }
    for path in (PAGE, *(root / "contrib/monitoring").iterdir()):
        named = set(re.findall(r"\bclusterd_[a-z_]+\b", path.read_text()))
        assert named <= known, path


def test_certificate_is_read_again_when_its_file_changes(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    own = ApiSettings(enabled=True)
    cert, _ = self_signed("here")
    (tmp_path / own.cert).write_bytes(cert)
    (tmp_path / own.key).write_text("")
    files = SecretFiles(Settings(root=str(tmp_path), clusterd=Clusterd(api=own)))
    first = files.look()
    assert set(first.modified) == {own.key}, "what is not there is left out"
    assert first.expiry[own.cert] > 1.7e9
    assert files.look() == first
    (tmp_path / own.cert).write_text("no certificate")
    assert files.look().expiry == {}
