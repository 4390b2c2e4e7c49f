"""What a node's manager reports about itself, from real files (dapi.md 5.2, 5.4, 5.5)."""

import datetime
import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from clusterd.dapi.execution import run
from clusterd.dapi.files.daemons import DAEMONS, daemon_states, not_ready
from clusterd.dapi.functions.manager import log_lines
from clusterd.dapi.protocol.request import DISTRIBUTED, ApiRequest, encode_request
from clusterd.settings import ClusterBlock, Settings
from clusterd.wire.results import WireCallable, WireException, WireResult

LOG = """\
2026/11/23 10:00:00 wazuh-analysisd: INFO: Started (pid: 7).
2026/11/23 10:00:01 wazuh-modulesd:syscollector: WARNING: Something is odd.
2026/11/23 10:00:02 wazuh-remoted[812] netbuffer.c:12: ERROR: (1210): Queue not available.
a line that is none
2026/11/23 10:00:03 rootcheck: INFO: Ending.
2026/11/23 10:00:04 wazuh-db: NOTICE: of no known level
2026/11/23 10:00:05 wazuh-analysisd: DEBUG: Tick.
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for directory in ("logs", "var/run", "bin"):
        (tmp_path / directory).mkdir(parents=True)
    return tmp_path


def called(root: Path, function: str, *, distributed: bool = False, store: bool = False, **arguments: Any) -> Any:
    module, _, name = f"wazuh.{function}".rpartition(".")
    request = ApiRequest(
        f=WireCallable(name, module, name), f_kwargs=arguments, request_type=DISTRIBUTED if distributed else "local_any"
    )
    return run(encode_request(request), Settings(root=str(root), serves_store=store), serves_store=store)


def items(answer: Any) -> list[Any]:
    assert isinstance(answer, WireResult), answer
    return list(answer.fields["affected_items"])


# ---- daemons ---------------------------------------------------------------------------------------------------------


def test_states_follow_the_first_file_that_matches(root: Path) -> None:
    run_files = root / "var/run"
    dead = 4_000_000
    for name in (
        f"wazuh-analysisd-{os.getpid()}.pid",
        f"wazuh-execd-{dead}.pid",
        f"wazuh-db-{dead}.pid",
        f"wazuh-db-{os.getpid()}.pid",
        "wazuh-remoted.failed",
        f"wazuh-remoted-{os.getpid()}.pid",
        "wazuh-maild.start",
        "wazuh-apid-x.pid",
    ):
        (run_files / name).touch()
    states = daemon_states(str(root))
    assert list(states) == list(DAEMONS)
    assert {name: state for name, state in states.items() if state != "stopped"} == {
        "wazuh-analysisd": "running",
        "wazuh-execd": "failed",
        "wazuh-db": "running",
        "wazuh-remoted": "failed",
        "wazuh-maild": "starting",
    }
    (run_files / ".restart").touch()
    assert daemon_states(str(root))["wazuh-analysisd"] == "restarting"
    assert daemon_states(str(root))["wazuh-remoted"] == "failed"


def test_only_daemons_that_were_ever_here_are_required(root: Path) -> None:
    required = ["wazuh-db", "wazuh-execd", "wazuh-modulesd", "os.system"]
    assert not_ready(str(root), required, serves_store=False) == []
    (root / "bin/wazuh-db").touch()
    (root / "var/run/wazuh-execd.failed").touch()
    assert not_ready(str(root), required, serves_store=False) == ["wazuh-db->stopped", "wazuh-execd->failed"]
    assert not_ready(str(root), required, serves_store=True) == ["wazuh-execd->failed"]


def test_function_waits_for_no_daemon_that_is_down(root: Path) -> None:
    (root / "var/run/wazuh-execd.failed").touch()
    answer = called(root, "manager.get_basic_info")
    assert isinstance(answer, WireException)
    assert answer.code == 1017
    assert "wazuh-execd->failed" in answer.message
    (states,) = items(called(root, "manager.get_status"))
    assert states["wazuh-execd"] == "failed"


def test_states_as_stock_nodes_were_recorded_to_ask_for_them(root: Path) -> None:
    """transcript.jsonl, 455 and 473."""
    for distributed in (True, False):
        answer = called(root, "core.manager.status", distributed=distributed)
        assert isinstance(answer, WireResult)
        assert answer.wire_class == "WazuhResult"
        assert answer.fields == {"str_priority": None, "result": dict.fromkeys(DAEMONS, "stopped")}


# ---- its uuid --------------------------------------------------------------------------------------------------------


def uuid_of(root: Path, role: Any = "master") -> Any:
    request = ApiRequest(f=WireCallable("get_basic_info", "wazuh.manager", "get_basic_info"), request_type="local_any")
    settings = Settings(root=str(root), cluster=ClusterBlock(node_type=role))
    return items(run(encode_request(request), settings, serves_store=False))[0]["uuid"]


def test_master_without_a_framework_has_a_uuid_of_its_own(root: Path) -> None:
    assert uuid_of(root) is None, "there is no place for it"
    (root / "etc").mkdir()
    assert uuid_of(root, "worker") is None
    assert not list((root / "etc").iterdir())
    made = uuid_of(root)
    assert str(uuid.UUID(made)) == made
    assert uuid_of(root) == made
    (root / "etc/clusterd-uuid").write_text("a disk that was full")
    assert uuid_of(root) not in (made, None)


def test_uuid_of_a_manager_with_a_framework_is_that_ones(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "framework/python").mkdir(parents=True)
    (root / "framework/python/pyvenv.cfg").touch()
    assert uuid_of(root) is None
    assert not list((root / "etc").iterdir())
    (root / "framework/python/pyvenv.cfg").unlink()
    assert uuid_of(root) is not None, "it was removed"


# ---- who may know its name -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("resource", "shown"), [("node:id:m", "m"), ("node:id:other", "unknown-node")])
def test_name_of_a_node_is_not_told_to_users_who_may_not_read_it(root: Path, resource: str, shown: str) -> None:
    """dapi.md 3.7."""
    permissions = {"rbac_mode": "white", "cluster:read": {resource: "allow"}, "group:read": {"group:id:*": "allow"}}
    name = WireCallable("get_group_files", "wazuh.agent", "get_group_files")
    asked = ApiRequest(f=name, f_kwargs={"group_list": ["nothing"]}, rbac_permissions=permissions)
    settings = Settings(root=str(root), cluster=ClusterBlock(node_name="m"))
    answer = run(encode_request(asked), settings, serves_store=True)
    assert isinstance(answer, WireException)
    assert (answer.code, list(answer.dapi_errors)) == (1710, [shown])


# ---- the log ---------------------------------------------------------------------------------------------------------


def test_log_lines_are_shown_newest_first(root: Path) -> None:
    (root / "logs/ossec.log").write_text(LOG)
    found = items(called(root, "manager.ossec_log"))
    assert found[0] == {
        "timestamp": "2026-11-23T10:00:05Z",
        "tag": "wazuh-analysisd",
        "level": "debug",
        "description": " Tick.",
    }
    assert [line["tag"] for line in found] == [
        "wazuh-analysisd",
        "wazuh-rootcheck",
        "wazuh-modulesd:syscollector",
        "wazuh-analysisd",
    ]


def test_log_is_filtered_searched_and_cut(root: Path) -> None:
    (root / "logs/ossec.log").write_text(LOG)
    assert [line["level"] for line in items(called(root, "manager.ossec_log", level="WARNING"))] == ["warning"]
    assert len(items(called(root, "manager.ossec_log", tag="wazuh-analysisd", q="description~Started"))) == 1
    assert len(items(called(root, "manager.ossec_log", search_text="odd"))) == 1
    answer = called(root, "manager.ossec_log", limit=1, offset=1)
    assert (len(items(answer)), answer.fields["total_affected_items"]) == (1, 4)
    bad = called(root, "manager.ossec_log", sort_by=["nothing"])
    assert (bad.code, bad.wire_class) == (1403, "WazuhError")


def test_only_the_end_of_a_large_log_is_read(root: Path) -> None:
    with (root / "logs/ossec.log").open("w") as file:
        for number in range(120_000):
            file.write(f"2026/11/23 10:00:00 wazuh-db: INFO: line {number} {'x' * 40}\n")
    answer = called(root, "manager.ossec_log", limit=1, search_text="line 119999 ")
    assert len(items(answer)) == 1
    assert called(root, "manager.ossec_log", limit=1).fields["total_affected_items"] == 2000


def test_lines_of_brackets_take_no_longer_than_others(root: Path) -> None:
    """A program may be made to log them."""
    line = "2025/11/23 10:00:00 " + "[" * 60_000
    (root / "logs/ossec.log").write_text(f"{line}\n" * 60 + "2025/11/23 10:00:00 wazuh-db[1 x]: INFO: good\n")
    began = time.process_time()
    assert [one["tag"] for one in log_lines(str(root))] == ["wazuh-db"]
    assert time.process_time() - began < 5


def test_summary_counts_by_tag_and_level(root: Path) -> None:
    (root / "logs/ossec.log").write_text(LOG)
    found = {tag: counts for item in items(called(root, "manager.ossec_log_summary")) for tag, counts in item.items()}
    assert found["wazuh-analysisd"] == {"all": 2, "info": 1, "error": 0, "critical": 0, "warning": 0, "debug": 1}
    assert list(found) == sorted(found)


def test_without_a_log_it_is_1020(root: Path) -> None:
    for function in ("manager.ossec_log", "manager.ossec_log_summary"):
        answer = called(root, function)
        assert isinstance(answer, WireException)
        assert answer.code == 1020


# ---- statistics ------------------------------------------------------------------------------------------------------


def test_totals_of_a_day(root: Path) -> None:
    directory = root / "stats/totals/2026/Nov"
    directory.mkdir(parents=True)
    (directory / "ossec-totals-05.log").write_text("0-1002-2-5\n0-5501-3-1\n0--6--40--2--0\n1--0--7--0--0\n")
    found = items(called(root, "stats.totals", date=datetime.datetime(2026, 11, 5)))
    assert found == [
        {
            "hour": 0,
            "alerts": [{"sigid": 1002, "level": 2, "times": 5}, {"sigid": 5501, "level": 3, "times": 1}],
            "totalAlerts": 6,
            "events": 40,
            "syscheck": 2,
            "firewall": 0,
        },
        {"hour": 1, "alerts": [], "totalAlerts": 0, "events": 7, "syscheck": 0, "firewall": 0},
    ]
    missing = called(root, "stats.totals", date=datetime.datetime(2026, 11, 6))
    assert (missing.code, missing.wire_class) == (1308, "WazuhError")
    (directory / "ossec-totals-06.log").write_text("a--b--c--d--e\n")
    assert called(root, "stats.totals", date=datetime.datetime(2026, 11, 6)).code == 1309


def test_averages_are_zero_where_there_is_no_file(root: Path) -> None:
    hourly = root / "stats/hourly-average"
    hourly.mkdir(parents=True)
    (hourly / "3").write_text("17\n")
    (hourly / "24").write_text("5")
    assert items(called(root, "stats.hourly")) == [
        {"averages": [17 if hour == 3 else 0 for hour in range(24)], "interactions": 5}
    ]
    found = items(called(root, "stats.weekly", distributed=True))
    assert [day for item in found for day in item] == ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]


def test_node_that_may_not_be_read_says_nothing(root: Path) -> None:
    settings = Settings(root=str(root), cluster=ClusterBlock(node_name="worker1"))
    for permissions, code in (({"rbac_mode": "white"}, 4000), ({"rbac_mode": "black"}, 0)):
        request = ApiRequest(
            f=WireCallable("hourly", "wazuh.stats", "hourly"),
            request_type=DISTRIBUTED,
            rbac_permissions=permissions,
            from_cluster=True,
        )
        answer = run(encode_request(request), settings, serves_store=False)
        assert (answer.code if isinstance(answer, WireException) else 0) == code
