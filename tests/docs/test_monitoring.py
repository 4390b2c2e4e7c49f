"""The files of contrib/monitoring for Prometheus and Grafana are valid, and docs/monitoring.md explains them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRIB = ROOT / "contrib/monitoring"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "clusterd-alerts.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "clusterd-alerts.test.yml"],
    ],
    ids=" ".join,
)
def test_promtool_finds_nothing_wrong(arguments: list[str]) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=CONTRIB, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_explained_and_no_other() -> None:
    alerts = re.findall(r"- alert: (\w+)", (CONTRIB / "clusterd-alerts.yml").read_text())
    explained = re.findall(r"^\| `(Clusterd\w+)` \|", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
    assert explained == alerts


def test_dashboard_of_grafana_can_be_imported() -> None:
    dashboard = json.loads((CONTRIB / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for one in places
        for x in range(one["x"], one["x"] + one["w"])
        for y in range(one["y"], one["y"] + one["h"])
    ]
    assert len(set(cells)) == len(cells), "panels lie over one another"
    assert all(one["x"] + one["w"] <= 24 for one in places)
    assert all(panel["targets"] for panel in panels if panel["type"] != "row")
