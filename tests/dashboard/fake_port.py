"""A monitoring port that serves scripted states and the files of the page, as docs/monitoring.md says."""

import fnmatch
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

PAGE = Path(__file__).parents[2] / "clusterd" / "monitor" / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
EVERY_S = 2.0


class FakePort:
    """`tell` sends the viewers another state, `happen` an event; `leave` ends every connection and answers no request
    until `come_back`; `mute` keeps connections and sends nothing."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.lag: dict[str, Any] = {"step_s": 15, "from": None, "workers": {}}
        self.asked: list[str] = []
        self.most_read = 1 << 30
        """How many events are searched for one answer of the history."""
        self._happened: list[dict[str, Any]] = []
        self._told = 0
        self._is_away = self._is_mute = self._is_over = False
        self._changed = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def begin(self, status: dict[str, Any], events: list[dict[str, Any]], lag: dict[str, Any]) -> None:
        """The state that the next page finds."""
        with self._changed:
            self.status, self.events, self.lag, self._happened = status, events, lag, []
            self._is_away = self._is_mute = False
            self.most_read = 1 << 30
            self.asked.clear()
            self._told += 1
            self._changed.notify_all()

    def tell(self, status: dict[str, Any]) -> None:
        with self._changed:
            self.status = status
            self._told += 1
            self._changed.notify_all()

    def happen(self, event: dict[str, Any]) -> None:
        with self._changed:
            self.events = [event, *self.events]
            self._happened.append(event)
            self._changed.notify_all()

    def leave(self) -> None:
        with self._changed:
            self._is_away = True
            self._changed.notify_all()

    def mute(self) -> None:
        with self._changed:
            self._is_mute = True

    def come_back(self) -> None:
        with self._changed:
            self._is_away = self._is_mute = False
            self._told += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_over = self._is_away = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # ---- in threads of the server ------------------------------------------------------------------------------------

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[str, bytes] | None:
        if path == "/status.json":
            return "application/json", json.dumps(self.status).encode()
        if path == "/lag.json":
            return "application/json", json.dumps(self.lag).encode()
        if path == "/history.json":
            return "application/json", json.dumps(self._page(query)).encode()
        file = PAGE / ("index.html" if path == "/" else path.removeprefix("/page/"))
        if file.parent == PAGE and file.is_file():
            return TYPES[file.suffix], file.read_bytes()
        return None

    def _page(self, query: dict[str, list[str]]) -> dict[str, Any]:
        asked = {name: values[0] for name, values in query.items()}
        behind = [event for event in self.events if event["seq"] < int(asked.get("before", event["seq"] + 1))]
        read = behind[: self.most_read]
        found = [
            event
            for event in read
            if event["kind"] == asked.get("kind", event["kind"])
            and _place(event) == asked.get("node", _place(event))
            and ("path" not in asked or any(fnmatch.fnmatchcase(path, asked["path"]) for path in _paths(event)))
        ]
        is_cut = len(read) < len(behind) and len(found) < int(asked["limit"])
        return {"events": found[: int(asked["limit"])], "more": is_cut, "before": read[-1]["seq"] if is_cut else None}

    def stream(self, handler: BaseHTTPRequestHandler) -> None:
        told, happened = -1, len(self._happened)
        while True:
            with self._changed:
                self._changed.wait_for(lambda seen=(told, happened): self._is_away or self._news(seen), EVERY_S)
                if self._is_away:
                    return
                news, happened = self._happened[happened:], len(self._happened)
                told, status, mute = self._told, self.status, self._is_mute
            if mute:
                continue
            for event in news:
                handler.wfile.write(f"id: {event['seq']}\nevent: journal\ndata: {json.dumps(event)}\n\n".encode())
            handler.wfile.write(f"event: status\ndata: {json.dumps(status)}\n\n".encode())

    def _news(self, seen: tuple[int, int]) -> bool:
        return (self._told, len(self._happened)) != seen

    @property
    def is_away(self) -> bool:
        return self._is_away


def _place(event: dict[str, Any]) -> str:
    return str(event.get("worker") or event.get("through") or event["node"])


def _paths(event: dict[str, Any]) -> list[str]:
    files = event.get("files")
    return [file["path"] for file in (files if isinstance(files, list) else []) + event.get("left_out", [])]


def _handler(port: FakePort) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            if port.is_away:
                return
            parts = urlsplit(self.path)
            port.asked.append(self.path)
            try:
                if parts.path == "/events":
                    self._head(200, "text/event-stream", None)
                    port.stream(self)
                    return
                found = port.answer(parts.path, parse_qs(parts.query))
                self._head(200 if found else 404, found[0] if found else "text/plain", len(found[1]) if found else 0)
                if found:
                    self.wfile.write(found[1])
            except (BrokenPipeError, ConnectionResetError):
                return

        def _head(self, code: int, kind: str, length: int | None) -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Security-Policy", POLICY)
            self.send_header("Cache-Control", "no-cache")
            self.send_header("Connection", "close")
            if length is not None:
                self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
