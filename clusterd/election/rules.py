"""Who may lead, and who of several does: pure functions of what stands in etcd (docs/ha.md)."""

from clusterd.election.keys import CandidateKey, EtcdView, OrderKey

FOLLOWING = "following"
GAP = 1_000_000
"""Positions that a start of the store leaves out (clusterd/store/change_log.py)."""


def objection(view: EtcdView, one: CandidateKey, *, max_lag: int) -> str:
    """Why this node may not lead now; empty: it may. The same on every node that sees the same."""
    return standing_objection(view, one) or _objection_of_last(view, one, max_lag)


def standing_objection(view: EtcdView, one: CandidateKey) -> str:
    """What speaks against it whoever led last."""
    config = view.config
    if config is None:
        return "etcd knows nothing of this cluster: clusterd ha bootstrap"
    if one.fingerprint != config.fingerprint:
        return "it has another cluster key or name than the cluster of this prefix"
    if one.priority == 0:
        return "its priority is 0"
    return one.may_not_lead


def _objection_of_last(view: EtcdView, one: CandidateKey, max_lag: int) -> str:
    """What the last leader has given away that this node may not have."""
    config, last = view.config, view.last
    assert config is not None
    if last is None:
        if view.unreadable:
            return f"{', '.join(view.unreadable)} cannot be read in etcd"
        return "" if one.name == config.first else f"only {config.first or 'nobody'} may be the first to lead"
    if is_former(view, one):
        return ""
    if one.state != FOLLOWING:
        return "its replica is not whole"
    if one.epoch != last.epoch:
        return f"its replica is not of what {last.leader} had in term {last.term}"
    if one.position < last.floor:
        return "its replica lacks what was answered"
    if last.confirming is not None and last.confirming != one.name:
        return f"{last.confirming} has what was answered last"
    if last.confirming is None and lag(last.position, one.position) > max_lag:
        return f"its replica is {lag(last.position, one.position)} changes behind, and max_lag is {max_lag}"
    return ""


def is_former(view: EtcdView, one: CandidateKey) -> bool:
    """Whether it is the leader of the last term, with its own agent database: nobody has more. It may have taken the
    lead again and never served: its log is the same one then."""
    last = view.last
    if last is None or one.name != last.leader:
        return False
    return 0 < one.led == last.term or (one.led > last.term and one.epoch == last.epoch)


def lag(last: int, position: int) -> int:
    """How many changes are missing, at most. A start of the store leaves a gap in which there are none."""
    return max(0, last - position) % GAP


def rank(view: EtcdView, one: CandidateKey, *, max_lag: int) -> int:
    """0: it is this node's turn; otherwise how many are before it: the furthest first, then the greater priority. Only
    for a node that may lead."""
    able = [other for other in view.candidates.values() if not objection(view, other, max_lag=max_lag)]
    if all(other.name != one.name for other in able):
        able.append(one)
    able = [one if other.name == one.name else other for other in able]
    ordered = sorted(able, key=lambda other: (not is_former(view, other), -other.position, -other.priority, other.name))
    return [other.name for other in ordered].index(one.name)


def order_of_now(view: EtcdView) -> OrderKey | None:
    """The order that says who leads after the last term."""
    order, ended = view.order, 0 if view.last is None else view.last.term
    return order if order is not None and not order.refused and order.to and order.term == ended else None


def is_forced(view: EtcdView, name: str) -> bool:
    """Whether an operator has ordered that this node leads whatever speaks against it."""
    order = order_of_now(view)
    return order is not None and order.kind == "failover" and order.to == name


def best_follower(view: EtcdView, epoch: str) -> str:
    """To whom the leader hands over when nobody is named; empty: there is nobody."""
    able = [
        one
        for one in view.candidates.values()
        if one.name != view.leader_name and not follower_objection(view, one, epoch)
    ]
    confirming = "" if view.last is None else view.last.confirming
    able.sort(key=lambda one: (one.name != confirming, -one.priority, -one.position, one.name))
    return able[0].name if able else ""


def follower_objection(view: EtcdView, one: CandidateKey, epoch: str) -> str:
    """Why the leader, whose log is `epoch`, cannot hand over to this node; empty: it can."""
    standing = standing_objection(view, one)
    if standing:
        return standing
    if one.state != FOLLOWING or one.epoch != epoch:
        return "it has no whole replica of the present leader"
    return ""
