"""A master that a test plays by hand, for net of a worker."""

import socket

from tests.net.harness import CLUSTER, KEY, VERSION, Talker

HELLO = f"w1 {CLUSTER} worker {VERSION}".encode()


class ScriptedMaster:
    """A listening port; the test decides what it answers."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.server = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, reuse_port=False
        )
        self.server.settimeout(60)
        self.port: int = self.server.getsockname()[1]
        self.talkers: list[Talker] = []

    @property
    def node(self) -> str:
        return f"127.0.0.1:{self.port}"

    def accept(self) -> Talker:
        sock, _ = self.server.accept()
        talker = Talker(sock, KEY)
        self.talkers.append(talker)
        return talker

    def welcome(self) -> Talker:
        """Accepts a connection and its hello."""
        talker = self.accept()
        hello = talker.read()
        assert (hello.command, hello.payload) == (b"hello", HELLO)
        talker.respond(hello, "ok", "Client w1 added")
        return talker

    def close(self) -> None:
        for talker in self.talkers:
            talker.close()
        self.server.close()
