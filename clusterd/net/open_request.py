"""Requests under way between a link and sync, as the bridge remembers them."""

from clusterd.net.link import Link


class OpenRequest:
    """A request of a peer that sync has. `answer_as`: the command word that an `ok` becomes (echo-c, echo-m). `answered`: the
    response has been given, and more is to follow."""

    __slots__ = ("answer_as", "answered", "command", "counter", "link")

    def __init__(self, link: Link, counter: int, command: str, answer_as: str) -> None:
        self.link = link
        self.counter = counter
        self.command = command
        self.answer_as = answer_as
        self.answered = False
