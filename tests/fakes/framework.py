"""An installed framework, written from docs/protocol/framework.md alone: a directory that looks like one, with about
two dozen functions, which are in tests/fakes/framework_packages."""

import json
import shutil
import sqlite3
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).parent / "framework_packages"
USER, PASSWORD = "wazuh", "a-password-of-the-test"


class FakeFramework:
    """The framework below the root of a node. `site`: the directory of its packages, for tests that remove some."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "framework"
        python = self.directory / "python"
        version = "{}.{}".format(*sys.version_info)
        self.site = python / "lib" / f"python{version}" / "site-packages"
        self.site.mkdir(parents=True)
        (python / "bin").mkdir()
        self.python = python / "bin" / "python3"
        self.python.symlink_to(Path(sys.base_prefix) / "bin" / f"python{version}")
        (python / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n")
        shutil.copytree(PACKAGES, self.site, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        self._make_database()

    def _make_database(self) -> None:
        directory = self.root / "api" / "configuration" / "security"
        directory.mkdir(parents=True)
        self.database = directory / "rbac.db"
        with sqlite3.connect(self.database) as database:
            database.execute("create table user (id integer primary key, name text unique, password text)")
        self.add_user(USER, PASSWORD)

    def add_user(self, name: str, password: str) -> None:
        with sqlite3.connect(self.database) as database:
            database.execute(
                "insert into user (name, password) values (?, ?)", (name, sha256(password.encode()).hexdigest())
            )

    def behave(self, **how: Any) -> None:
        """Takes effect at its next start. `import`: "fail", "hang", "slow", "exit"; `items`: the cluster's settings
        cannot be read; `marked`: functions carry __wazuh_exposed__, as from 4.14.9 on."""
        (self.directory / "behaviour.json").write_text(json.dumps(how))

    @property
    def calls(self) -> list[str]:
        """Returns the functions that ran, in order; only those that change something, and those of wazuh.bad_luck, are
        recorded."""
        return [line.split()[0] for line in self._lines()]

    @property
    def pids(self) -> list[int]:
        """Returns the processes in which they ran."""
        return [int(line.split()[1]) for line in self._lines()]

    def _lines(self) -> list[str]:
        path = self.directory / "calls"
        return path.read_text().splitlines() if path.exists() else []
