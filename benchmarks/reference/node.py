"""A node's settings from etc/ossec.conf and etc/cluster.json (wire.md 7), and its log (9.1)."""

import json
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = "4.14.1"
WORKER = {"sync_integrity": 9, "keep_alive": 60, "connection_retry": 10}
MASTER = {"recalculate_integrity": 8, "max_locked_integrity_time": 1000}
COMMUNICATION = {
    "timeout_cluster_request": 20,
    "timeout_receiving_file": 120,
    "max_zip_size": 1073741824,
    "compress_level": 1,
}


@dataclass
class Node:
    """One node. `intervals`: the settings of its role and those of communication, by their stock names."""

    root: Path
    role: str
    name: str
    cluster: str
    key: str
    host: str
    port: int
    bind: str
    intervals: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Path, role: str | None = None) -> "Node":
        """Raises OSError, ValueError or KeyError for a configuration that is not whole."""
        block = ElementTree.parse(root / "etc" / "ossec.conf").getroot().find("cluster")
        if block is None:
            raise ValueError(f"{root}/etc/ossec.conf has no cluster block")
        text = {child.tag: (child.text or "").strip() for child in block}
        path = root / "etc" / "cluster.json"
        asked = json.loads(path.read_text()).get("intervals", {}) if path.exists() else {}
        intervals = {
            **WORKER,
            **MASTER,
            **COMMUNICATION,
            **asked.get("worker", {}),
            **asked.get("master", {}),
            **asked.get("communication", {}),
        }
        return cls(
            root=root,
            role=role or text["node_type"],
            name=text["node_name"],
            cluster=text["name"],
            key=text["key"],
            host=(block.findtext("nodes/node") or "127.0.0.1").strip(),
            port=int(text["port"]),
            bind=text.get("bind_addr") or "0.0.0.0",
            intervals=intervals,
        )

    def spool(self, worker: str) -> Path:
        """Directory of the packages of this worker's connection."""
        path = self.root / "queue" / "cluster" / worker
        path.mkdir(mode=0o770, parents=True, exist_ok=True)
        return path

    def log(self, tag: str, subtag: str, message: str, level: str = "INFO") -> None:
        with (self.root / "logs" / "cluster.log").open("a") as file:
            file.write(f"{time.strftime('%Y/%m/%d %H:%M:%S')} {level}: [{tag}] [{subtag}] {message}\n")
