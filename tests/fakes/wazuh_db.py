"""A foreign wazuh-db with the two sockets of a stock one, answering as the test says, in threads of the test."""

import contextlib
import http.server
import json
import os
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


class FakeWazuhDb:
    """Serves from construction until `close`. `pending`: the answer to GET `/v1/agents/sync`, given once; `reports`:
    the bodies posted; `requests`: those of the stream socket; `answer` makes their answers. `post_status` 500 refuses
    reports."""

    def __init__(self, root: Path, answer: Callable[[str], str] = lambda request: "ok") -> None:
        self.pending: dict[str, Any] = {}
        self.reports: list[Any] = []
        self.paths: list[str] = []
        self.requests: list[str] = []
        self.answer = answer
        self.post_status = 200
        self._lock = threading.Lock()
        self._servers = [
            self._serve(root / "queue/db/wdb", self._stream_handler()),
            self._serve(root / "queue/sockets/wdb-http.sock", self._http_handler()),
        ]

    def close(self) -> None:
        for server, thread, path in self._servers:
            server.shutdown()
            thread.join(60)
            server.server_close()
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def __enter__(self) -> "FakeWazuhDb":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _serve(path: Path, handler: type) -> tuple[socketserver.BaseServer, threading.Thread, Path]:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            block_on_close = False
            request_queue_size = 128

        server = Server(str(path), handler)
        os.chmod(path, 0o666)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        return server, thread, path

    def _stream_handler(self) -> type:
        fake = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while len(head := self.rfile.read(4)) == 4:
                    request = self.rfile.read(int.from_bytes(head, "little")).decode()
                    with fake._lock:
                        fake.requests.append(request)
                        answer = fake.answer(request).encode()
                    self.wfile.write(len(answer).to_bytes(4, "little") + answer)

        return Handler

    def _http_handler(self) -> type:
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                return

            def address_string(self) -> str:
                return "local"

            def reply(self, status: int, body: bytes = b"") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                with fake._lock:
                    fake.paths.append(f"GET {self.path}")
                    if self.path != "/v1/agents/sync":
                        self.reply(404)
                        return
                    pending, fake.pending = fake.pending, {}
                self.reply(200, json.dumps(pending).encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with fake._lock:
                    fake.paths.append(f"POST {self.path}")
                    if self.path != "/v1/agents/sync":
                        self.reply(404)
                        return
                    if fake.post_status == 200:
                        fake.reports.append(json.loads(body))
                    self.reply(fake.post_status)

        return Handler
