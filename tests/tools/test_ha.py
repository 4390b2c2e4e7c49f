"""`clusterd ha status`: what it shows of each kind of node, and its exit code; what check-config says of replicas."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from clusterd.errors import ClusterError
from clusterd.messages.election import HaCommand
from tools.check import check
from tools.cli_ha import is_wanting
from tools.console import PlainConsole
from tools.election_orders import _ended, ask_election, carry_out
from tools.screen_ha import ha_view

CLUSTER = (
    "<cluster><node_name>m</node_name><node_type>master</node_type><key>{}</key><nodes><node>m</node></nodes></cluster>"
)
CANDIDATE: dict[str, Any] = {
    "name": "w1",
    "connected": True,
    "state": "following",
    "position": 1017,
    "lag": 0,
    "digest_at": 990.0,
    "digest_equal": True,
    "confirms": True,
    "seen_at": 999.0,
    "may_not_lead": None,
}
MASTER: dict[str, Any] = {
    "role": "master",
    "problem": None,
    "epoch": "e",
    "position": 1017,
    "greatest_id": 12,
    "registrations": "synchronous",
    "registrations_reason": None,
    "candidates": [CANDIDATE],
}
OWN: dict[str, Any] = {
    "role": "candidate",
    "problem": None,
    "state": "copying",
    "connected": True,
    "position": None,
    "lag": 40,
    "digest_at": None,
    "digest_equal": None,
    "may_not_lead": "the replica is not whole yet",
}


ELECTION: dict[str, Any] = {
    "node": "m1",
    "role": "leader",
    "leader": "m1",
    "term": 9,
    "serves": True,
    "has_lease": True,
    "seconds_left": 11.2,
    "is_failsafe": False,
    "paused": False,
    "etcd": None,
    "problem": None,
    "waits_for": None,
    "candidates": [
        {
            "name": name,
            "role": role,
            "priority": 100,
            "state": state,
            "position": 1017,
            "lag": 0,
            "digest_equal": True,
            "digest_at": 990.0,
            "is_confirming": name == "m2",
            "may_not_lead": why,
        }
        for name, role, state, why in (
            ("m1", "leader", "master", None),
            ("m2", "candidate", "following", None),
            ("m3", "candidate", "copying", "its replica is not whole"),
        )
    ],
    "away": ["m4"],
    "last": {"term": 9},
    "order": None,
    "program": {"name": "on_promote", "at": 990.0, "term": 9, "problem": "ended with exit code 1"},
}


def shown(ha: dict[str, Any] | None) -> str:
    text = io.StringIO()
    PlainConsole(width=160, file=text).print(ha_view(ha, 1000.0))
    return text.getvalue()


def test_master_shows_its_candidates_and_how_registrations_are_answered() -> None:
    text = shown(MASTER)
    assert "registrations synchronous" in text
    assert "equal, 10 s ago" in text
    lost = CANDIDATE | {"connected": False, "may_not_lead": "it is not connected"}
    text = shown(
        MASTER
        | {"candidates": [lost], "registrations": "asynchronous", "registrations_reason": "no candidate is connected"}
    )
    assert "LOST, heard of 1 s ago" in text
    assert "no: it is not connected" in text
    assert "asynchronous: no candidate is connected" in text


def test_candidate_shows_its_replica_and_why_it_may_not_lead() -> None:
    text = shown(OWN)
    assert "copying" in text
    assert "no: the replica is not whole yet" in text
    assert "No replica can be kept" in shown({"role": "candidate", "problem": "No replica can be kept: ..."})
    assert "clusterd.ha.replica is off" in shown(None)
    assert "1 files are kept in left-behind" in shown(
        OWN | {"left_behind": [{"text": "1 files are kept in left-behind"}]}
    )


def test_election_shows_who_leads_who_may_and_what_hinders() -> None:
    text = shown(MASTER | {"election": ELECTION})
    assert "m1 leads in term 9, for 11.2 s more" in text
    assert "on_promote 10 s ago: FAILED: ended with exit code 1" in text
    assert "candidate, confirms" in text
    assert "no: its replica is not whole" in text
    assert "no: it is not there" in text
    nobody = {"leader": None, "serves": False, "role": "candidate", "waits_for": "m2 has what was answered last"}
    nobody |= {"etcd": "no member answers", "paused": True}
    text = shown(MASTER | {"election": ELECTION | nobody})
    assert "NOBODY LEADS (m2 has what was answered last), PAUSED" in text
    assert "etcd cannot be asked: no member answers" in text
    order = {"kind": "switchover", "to": "m2", "by": "m3", "refused": "m2 did not catch up"}
    text = shown(MASTER | {"election": ELECTION | {"order": order, "serves": False}})
    assert "m1 takes the lead in term 9" in text
    assert "switchover to m2, ordered on m3: not done, m2 did not catch up" in text


FACTS = {"leader": "m1", "term": 9, "order": None, "serves": True, "paused": False, "has_lease": True}
BEGUN = {"id": "i", "term": 9, "leader": "m1", "to": "m2"}


@pytest.mark.parametrize(
    ("kind", "now", "ends"),
    [
        ("switchover", {}, None),
        ("switchover", {"leader": None}, None),
        ("switchover", {"leader": "m2", "term": 12, "serves": False}, None),
        ("switchover", {"leader": "m2", "term": 12}, (True, "m2 leads in term 12")),
        ("switchover", {"leader": "m1", "term": 12}, (False, "m2 did not take over in time")),
        ("switchover", {"order": {"id": "i", "refused": "because"}}, (False, "not done: because")),
        ("switchover", {"order": {"id": "another", "refused": "because"}}, None),
        ("failover", {"leader": "m2", "term": 12}, (True, "m2 leads")),
        ("pause", {"paused": True}, None),
        ("pause", {"paused": True, "has_lease": False}, (True, "Paused: m1 leads")),
        ("resume", {"has_lease": False}, None),
        ("resume", {}, (True, "Resumed: m1 leads in term 9")),
    ],
)
def test_an_order_ends_when_it_is_carried_out_or_refused(
    kind: Any, now: dict[str, Any], ends: tuple[bool, str] | None
) -> None:
    found = _ended(HaCommand(kind, "m2"), BEGUN, FACTS | now)
    if ends is None:
        assert found is None
    else:
        assert found is not None
        assert found.ok == ends[0]
        assert ends[1] in found.text
        assert (found.code == 0) == found.ok


def test_orders_on_a_node_that_does_not_run_or_has_no_election_say_so(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ossec.conf").write_text(f"<ossec_config>{CLUSTER.format('k' * 32)}</ossec_config>")
    found = carry_out(str(tmp_path), HaCommand("pause"), 1.0, lambda line: None)
    assert (found.ok, found.code) == (False, 4)
    with pytest.raises(ClusterError, match="no election runs on this node"):
        ask_election(str(tmp_path), HaCommand("status"))


@pytest.mark.parametrize(
    ("ha", "wanting"),
    [
        (None, False),
        (MASTER, False),
        (MASTER | {"candidates": []}, False),
        (MASTER | {"candidates": [CANDIDATE | {"may_not_lead": "it is not connected"}]}, True),
        (OWN, True),
        (OWN | {"may_not_lead": None}, False),
        (OWN | {"may_not_lead": None, "problem": "something"}, True),
        (MASTER | {"election": ELECTION}, False),
        (MASTER | {"election": ELECTION | {"serves": False}}, True),
        (MASTER | {"election": ELECTION | {"etcd": "away"}}, True),
    ],
)
def test_exit_code_says_whether_something_stands_against_leading(ha: dict[str, Any] | None, wanting: bool) -> None:
    assert is_wanting(ha) == wanting


def lines(root: Path, own: dict[str, Any]) -> str:
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/cluster.json").write_text(json.dumps({"clusterd": own}))
    return "\n".join(check(str(root)).lines)


def test_check_config_names_what_keeps_a_replica_from_being_kept(tmp_path: Path) -> None:
    wanted = {"ha": {"replica": True}}
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ossec.conf").write_text(f"<ossec_config>{CLUSTER.format('k' * 32)}</ossec_config>")
    assert "replica" not in lines(tmp_path, wanted)
    assert "clusterd.ha.replica: a replica needs clusterd's own store" in lines(tmp_path, wanted | {"store": "off"})
    assert "clusterd.ha.synchronous_timeout" in lines(tmp_path, {"ha": {"synchronous_timeout": 0}})
    assert "clusterd.ha.replicas" in lines(tmp_path, {"ha": {"replicas": True}})
    assert "warning: clusterd.ha.replica is on and the capability" in lines(
        tmp_path, wanted | {"caps": {"replica": False}}
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/wazuh-db").touch()
    assert "warning: clusterd.ha.replica needs clusterd's own store" in lines(tmp_path, wanted)
