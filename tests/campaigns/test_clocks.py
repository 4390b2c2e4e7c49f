"""The wall clock of all nodes jumps by seconds and by years, forward and back, while files change and agents report:
nothing is lost, no earlier state overwrites a later one, and all nodes become equal."""

import time
from pathlib import Path

import pytest

from tests.campaigns.frame import MINUTES, Edits, Readers, last_lines, must_be_well, report, running
from tests.campaigns.hooked import hooked
from tests.conftest import MakeRig
from tools.rig.guard import guarded
from tools.rig.peer import wait_until
from tools.rig.wdb_client import WdbClient

pytestmark = [pytest.mark.stress, pytest.mark.timeout(int(MINUTES * 60) + 900)]

JUMPS = (-1.0, 1.0, -3600.0, 3600.0, -86400.0, 86400.0, -3e8, 3e8)
AGENTS = 5


def version_of(root: Path, agent: int) -> str | None:
    with WdbClient(root) as client:
        rows = client.rows(f"select version from agent where id = {agent}")
    return rows[0].get("version") if rows else None


def test_clocks_while_files_change_and_agents_report(
    make_rig: MakeRig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running("clocks", capsys) as campaign, guarded("hook-") as place, hooked(monkeypatch, place) as page:
        rng = campaign.rng
        rig = make_rig(2, files=200)
        keys = "".join(f"{n:03} agent{n} any {n:064x}\n" for n in range(1, AGENTS + 1))
        (rig.master.root / "etc/client.keys").write_text(keys)
        edits, readers = Edits(campaign, rig.master.root), Readers(campaign, rig.workers)
        rig.start()
        rig.wait_equal(120, pause_s=0.5)
        for node in rig.nodes:
            wait_until(lambda root=node.root: version_known(root), 60, "the agents are known")  # type: ignore[misc]
        said: dict[int, str] = {}
        number = 0
        with readers:
            with edits:
                while campaign.goes_on:
                    if rng.random() < 0.5:
                        page.shift_clock(rng.choice(JUMPS))
                        campaign.counts["jumps"] += 1
                    number += 1
                    agent, worker = rng.randrange(1, AGENTS + 1), rng.choice(rig.workers)
                    report(worker, agent, f"v{number}")
                    said[agent] = f"v{number}"
                    campaign.counts["reports"] += 1
                    time.sleep(rng.uniform(0.05, 0.5))
            for agent, wanted in said.items():
                wait_until(
                    lambda one=agent, text=wanted: version_of(rig.master.root, one) == text,  # type: ignore[misc]
                    60,
                    f"the master has {wanted} of agent {agent}, it has {version_of(rig.master.root, agent)}\n"
                    + last_lines(rig),
                )
            page.shift_clock(0)
            must_be_well(rig, campaign)
        assert not readers.torn


def version_known(root: Path) -> bool:
    with WdbClient(root) as client:
        return len(client.rows("select id from agent where id > 0")) == AGENTS
