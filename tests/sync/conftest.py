import pytest

from clusterd.sync.manifest import keeper
from clusterd.sync.manifest.watcher import LAG_S
from tools.rig.patience import slowness


@pytest.fixture(autouse=True)
def events_come_in_their_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh scan waits for the events of recent changes. On a busy machine they take longer, so the wait is longer
    here."""
    monkeypatch.setattr(keeper, "LAG_S", LAG_S * slowness())
