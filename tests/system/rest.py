"""A rig whose nodes serve the REST API, enabled with an operator's commands, and clients of it."""

import json
import ssl
from pathlib import Path
from typing import Any

import httpx

from tools.rig.nodes import Rig, RigNode
from tools.rig.ports import HOST, free_port

USER, PASSWORD = "op", "correct horse battery"
MASTER, FIRST, SECOND = NAMES = ["rig_manager_1", "rig_manager_2", "rig_manager_3"]
ATTEMPTS = 5
OVERRIDES = {"clusterd": {"api": {"host": HOST, "login_attempts": ATTEMPTS}}}


class Caller:
    """A client of one node's API; logs in at its first request. `address`: the address from which it connects."""

    def __init__(self, node: RigNode, *, user: str = USER, password: str = PASSWORD, address: str = HOST) -> None:
        api = json.loads((node.root / "etc/cluster.json").read_text())["clusterd"]["api"]
        self.node = node
        self.port: int = api["port"]
        self._credentials = (user, password)
        self._token = ""
        transport = httpx.HTTPTransport(
            verify=ssl.create_default_context(cafile=str(node.root / "etc/clusterd-api.crt")),
            local_address=address,
            # Shorter than the server's, so that the server never closes a connection just when the client uses it
            # again.
            limits=httpx.Limits(keepalive_expiry=1.0),
        )
        self._client = httpx.Client(transport=transport, base_url=f"https://{HOST}:{self.port}", timeout=30)

    def __enter__(self) -> "Caller":
        return self

    def __exit__(self, *reason: object) -> None:
        self._client.close()

    def login(self) -> httpx.Response:
        return self._client.post("/security/user/authenticate?raw=true", auth=self._credentials)

    @property
    def token(self) -> str:
        if not self._token:
            answer = self.login()
            assert answer.status_code == 200, answer.text
            self._token = answer.text
        return self._token

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        return self._client.request(method, path, headers=headers, **options)

    def get(self, path: str) -> Any:
        """Returns the body of an answer, which must be 200."""
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def items(self, path: str) -> list[Any]:
        """Returns all items; none may have failed."""
        answer = self.get(path)
        assert answer["error"] == 0, answer
        items: list[Any] = answer["data"]["affected_items"]
        return items

    def failed(self, path: str) -> dict[int, list[Any]]:
        """Returns the failed items by code."""
        return {item["error"]["code"]: item["id"] for item in self.get(path)["data"]["failed_items"]}

    def upload(self, path: str, content: bytes) -> httpx.Response:
        return self.ask("PUT", path, content=content, headers={"Content-Type": "application/octet-stream"})


def turn_on(rig: Rig, *nodes: RigNode) -> None:
    """Enables the API of these nodes, or of all, on free ports and with one user, before they start."""
    for node in nodes or rig.nodes:
        secret = Path(node.root, "etc", "password.txt")
        secret.write_text(PASSWORD + "\n")
        for arguments in (
            ("api", "enable", "--port", str(free_port())),
            ("api", "user", "add", USER, "--password-file", str(secret)),
        ):
            done = rig.command(node, *arguments, timeout_s=30)
            assert done.returncode == 0, done.stderr
            assert PASSWORD not in done.stdout + done.stderr
        secret.unlink()
