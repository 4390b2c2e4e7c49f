"""`clusterd ha status`: what it shows of each kind of node, and its exit code; what check-config says of replicas."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from tools.check import check
from tools.cli_ha import is_wanting
from tools.console import PlainConsole
from tools.screen_ha import ha_view

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
    assert "lost, 1 s ago" in text
    assert "no: it is not connected" in text
    assert "asynchronous: no candidate is connected" in text


def test_candidate_shows_its_replica_and_why_it_may_not_lead() -> None:
    text = shown(OWN)
    assert "copying" in text
    assert "no: the replica is not whole yet" in text
    assert "No replica can be kept" in shown({"role": "candidate", "problem": "No replica can be kept: ..."})
    assert "clusterd.ha.replica is off" in shown(None)


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
    ossec = "<cluster><node_name>m</node_name><node_type>master</node_type><key>{}</key><nodes><node>m</node></nodes></cluster>"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ossec.conf").write_text(f"<ossec_config>{ossec.format('k' * 32)}</ossec_config>")
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
