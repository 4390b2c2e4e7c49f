"""The bridge's records of requests between a link and sync."""

from clusterd.net.link import Link


class OpenRequest:
    """A request of a peer that sync is answering. `answer_as`: the command word that replaces `ok` (echo-c, echo-m).
    `answered`: the response was sent, and more will follow."""

    __slots__ = ("answer_as", "answered", "command", "counter", "link")

    def __init__(self, link: Link, counter: int, command: str, answer_as: str) -> None:
        self.link = link
        self.counter = counter
        self.command = command
        self.answer_as = answer_as
        self.answered = False
