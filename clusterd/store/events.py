"""What the journal hears of the store of a master: registrations and groups. Never a key."""

import time
from collections.abc import Callable, Iterable, Mapping

import msgspec

from clusterd.agent_keys import Key
from clusterd.logs import RateLimiter
from clusterd.messages.journal import AnyEvent, GroupEvent, RegistrationEvent
from clusterd.store.auth_request import MESSAGES, AuthdError, AuthRequest

Tell = Callable[[AnyEvent], None]
REFUSED_AGAIN_S = 3600.0
"""An agent that tries every few seconds is told of once in this time."""
MOST_NAMED = 20
MOST_EVENTS = 20
LONGEST_NAME = 128
LONGEST_GROUPS = 1000


def to_nobody(event: AnyEvent) -> None:
    """For a store without a node."""


class Applicant(msgspec.Struct, frozen=True):
    """Whose request it was: the worker it came through, and a user or program; empty if unknown."""

    through: str = ""
    who: str = ""


class RegistrationEvents:
    """Tells what has become of requests to authd."""

    def __init__(self, tell: Tell, term: int = 0) -> None:
        """`term`: in which this master leads."""
        self._tell = tell
        self._term = term
        self._refusals = RateLimiter(REFUSED_AGAIN_S)

    def written(self, added: Iterable[Key], removed: Iterable[Key], askers: Mapping[int, Applicant]) -> None:
        """These keys are on the disk, or gone. `askers`: by the agent's number."""
        for what, keys in (("removed", removed), ("added", added)):
            for key in keys:
                asker = askers.get(key.number, Applicant())
                self._tell(
                    RegistrationEvent(
                        what=what,
                        agent=key.id,
                        name=_text(key.name),
                        ip=_text(key.ip),
                        through=asker.through,
                        who=_text(asker.who),
                        term=self._term,
                    )
                )

    def refused(self, request: AuthRequest, refusal: AuthdError) -> None:
        """A registration was refused."""
        name = _text(request.arguments.get("name"))
        if request.function != "add" or self._refusals.admit((name, refusal.number), time.monotonic()) is None:
            return
        ip, why = _text(request.arguments.get("ip")), f"{MESSAGES[refusal.number]} ({refusal.number})"
        who = _text(request.who)
        self._tell(RegistrationEvent(what="refused", name=name, ip=ip, through=request.through, who=who, why=why))


def group_events(request: object) -> list[GroupEvent]:
    """Of a `set-agent-groups` that was carried out: one for all agents that it gives the same groups. None for groups
    that are given to agents without any (`empty_only`): those are what a registration or a report says."""
    content = request if isinstance(request, dict) else {}
    what = {"override": "assigned", "append": "assigned", "remove": "unassigned"}.get(str(content.get("mode")))
    items = content.get("data")
    if what is None or not isinstance(items, list):
        return []
    found: dict[str, list[str]] = {}
    for item in items:
        if isinstance(item, dict) and isinstance(item.get("groups"), list):
            names = ",".join(str(name) for name in item["groups"])[:LONGEST_GROUPS]
            found.setdefault(names, []).append(f"{item.get('id'):03}" if isinstance(item.get("id"), int) else "")
    return [
        GroupEvent(what=what, agent=",".join(agents[:MOST_NAMED]), agents=len(agents), group=names)
        for names, agents in list(found.items())[:MOST_EVENTS]
    ]


def _text(value: object) -> str:
    return value.encode(errors="replace").decode()[:LONGEST_NAME] if isinstance(value, str) else ""
