"""An installed framework, for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from clusterd.sync.ports import framework_crew
from tests.fakes.framework import FakeFramework
from tests.framework.lone_port import no_sigio


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFramework]:
    monkeypatch.setattr(framework_crew, "TICK_S", 0.02)
    monkeypatch.setattr(framework_crew, "FIRST_PAUSE_S", 0.02)
    with no_sigio():
        yield FakeFramework(tmp_path / "root")
