"""What `clusterd ha status` shows of the election; docs/ha.md lists the members."""

from collections.abc import Iterator
from typing import Any

import msgspec

from clusterd.election import rules
from clusterd.election.elector import Elector
from clusterd.election.facts import Facts


def shown(elector: Elector, facts: Facts, now: float) -> dict[str, Any]:
    """`now`: seconds of the boot clock."""
    view = elector.session.view
    config = view.config
    left = None if elector.tenure.is_for_ever else max(0.0, elector.tenure.until - now)
    rows = []
    for name, one in sorted({**view.candidates, elector.me.name: elector.following.candidate(facts)}.items()):
        is_leader = name == view.leader_name
        why = "" if is_leader else rules.objection(view, one, max_lag=elector.me.max_lag)
        rows.append(
            {
                "name": name,
                "role": "leader" if is_leader else "candidate",
                "advertise": one.advertise,
                "version": one.version,
                "priority": one.priority,
                "since": one.since,
                "state": one.state or "unknown",
                "position": one.position,
                "lag": one.lag,
                "digest_equal": one.digest_equal,
                "digest_at": one.digest_at,
                "is_confirming": view.last is not None and view.last.confirming == name,
                "may_not_lead": why or None,
            }
        )
    here = set(view.candidates)
    own_term = elector.tenure.term  # taken up from the board by a new process, before etcd has answered it
    return {
        "node": elector.me.name,
        "role": "leader" if own_term else "candidate",
        "leader": view.leader_name or (elector.me.name if own_term else None),
        "term": own_term or view.term or None,
        "seconds_left": left if own_term else 0.0,
        "is_failsafe": elector.tenure.is_failsafe,
        "serves": view.leader is not None and view.last is not None and view.last.term == view.term,
        "has_lease": view.leader is not None and view.leader.lease != 0,
        "paused": bool(config and config.paused),
        "etcd": elector.session.away or None,
        "problem": elector.session.problem or None,
        "waits_for": elector.session.waits_for or None if view.leader is None else None,
        "candidates": rows,
        "away": sorted(set(view.members) - here),
        "last": None if view.last is None else msgspec.to_builtins(view.last),
        "order": None if view.order is None else msgspec.to_builtins(view.order),
    }


def problems(elector: Elector, program: dict[str, Any] | None) -> Iterator[str]:
    """Yields the problems of the election that `status` shows, as long as each lasts. `program`: the last `on_promote`
    or `on_demote`."""
    session, tenure = elector.session, elector.tenure
    if session.away:
        more = " (this node goes on leading: every candidate says that it does not lead)" if tenure.is_failsafe else ""
        yield f"etcd cannot be asked: {session.away}{more}"
    elif session.problem:
        yield session.problem
    elif session.waits_for:
        yield f"nobody leads: {session.waits_for}"
    config = session.view.config
    if config is not None and config.paused:
        yield "the election is paused, nobody takes over: clusterd ha resume"
    if program is not None and program["problem"]:
        yield f"{program['name']} of term {program['term']} failed, it {program['problem']}"
