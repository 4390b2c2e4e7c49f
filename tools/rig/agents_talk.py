"""Requests of an agent to the manager, as remoted sends them to the wdb socket of the agent's worker (wdb.md 4.1)."""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.rig.wdb_client import WdbClient, WdbError, WdbRefused

REPEAT_S = 60.0
"""How long an unanswered request is repeated."""
PLATFORMS = (
    ("Ubuntu", "22.04.3 LTS", "22", "04", "Jammy Jellyfish", "ubuntu", "x86_64"),
    ("Debian GNU/Linux", "12", "12", "", "bookworm", "debian", "x86_64"),
    ("Microsoft Windows 11 Pro", "10.0.22631", "10", "0", "", "windows", "AMD64"),
)
Row = dict[str, Any]


@dataclass
class Agent:
    """`worker`: the node that it reports through. `row`: the columns that the master should have; None before the
    agent's first report."""

    name: str
    worker: str
    row: Row | None = None


class Patient:
    """A client that reconnects and repeats its request when the store was away."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._client: WdbClient | None = None

    def command(self, request: str) -> str:
        """Returns the payload of `ok`. Raises WdbRefused at once, WdbError after REPEAT_S without an answer."""
        until = time.monotonic() + REPEAT_S
        while True:
            try:
                if self._client is None:
                    self._client = WdbClient(self._root, 15)
                return self._client.command(request)
            except WdbRefused:
                raise
            except WdbError:
                self.close()
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> "Patient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def tell_everything(
    speakers: dict[str, Patient], agent_id: int, agent: Agent, version: str, chance: random.Random
) -> None:
    """Sends the agent's first keepalive at this worker, or a later one with changes; before a first one it sends a
    hello."""
    earlier = agent.row
    if earlier is None or earlier["node_name"] != agent.worker or earlier["connection_status"] != "active":
        hello = {"id": agent_id, "connection_status": "pending", "sync_status": "syncreq_status"}
        speakers[agent.worker].command(f"global update-keepalive {json.dumps(hello)}")
    name, release, major, minor, codename, platform, architecture = PLATFORMS[agent_id % len(PLATFORMS)]
    row: Row = {
        "os_name": name,
        "os_version": release,
        "os_major": major,
        "os_minor": minor,
        "os_codename": codename,
        "os_platform": platform,
        "os_arch": architecture,
        "version": f"Wazuh v4.14.1-{version}",
        "config_sum": f"{chance.getrandbits(128):032x}",
        "merged_sum": f"{chance.getrandbits(128):032x}",
        "manager_host": "rig",
        "node_name": agent.worker,
    }
    labels = {"env": "rig", "round": version} if agent_id % 5 == 0 else {}
    request = row | {
        "id": agent_id,
        "agent_ip": f"10.{agent_id >> 16 & 255}.{agent_id >> 8 & 255}.{agent_id & 255}",
        "connection_status": "active",
        "group_config_status": "synced",
        "sync_status": "syncreq",
        "labels": "\n".join(f"{key}:{value}" for key, value in labels.items()),
    }
    speakers[agent.worker].command(f"global update-agent-data {json.dumps(request)}")
    agent.row = row | {"ip": request["agent_ip"], "connection_status": "active", "status_code": 0, "labels": labels}


def keep_alive(speakers: dict[str, Patient], agent_id: int, agent: Agent) -> None:
    request = {"id": agent_id, "connection_status": "active", "sync_status": "syncreq_keepalive"}
    assert agent.row is not None
    if agent.row["connection_status"] != "active":
        # As remoted does for the first keepalive after a start: the change of status must be reported.
        request["sync_status"] = "syncreq_status"
    speakers[agent.worker].command(f"global update-keepalive {json.dumps(request)}")
    agent.row |= {"connection_status": "active", "status_code": 0}


def say_goodbye(speakers: dict[str, Patient], agent_id: int, agent: Agent) -> None:
    request = {
        "id": agent_id,
        "connection_status": "disconnected",
        "status_code": 3,
        "sync_status": "syncreq_status",
    }
    speakers[agent.worker].command(f"global update-connection-status {json.dumps(request)}")
    assert agent.row is not None
    agent.row |= {"connection_status": "disconnected", "status_code": 3}
