"""Who may lead, and who of several does: pure functions of what stands in etcd (docs/ha.md)."""

from clusterd.election.keys import CandidateKey, EtcdView, LastKey, OrderKey

FOLLOWING, MASTER = "following", "master"
MOST_NAMED = 200


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
            return f"{unreadable(view)} cannot be read in etcd"
        return "" if one.name == config.first else f"only {config.first or 'nobody'} may be the first to lead"
    if is_former(view, one):
        return ""
    # Who took the lead since and never served has the log of then, and has it still.
    if one.state != FOLLOWING and not (one.state == MASTER and one.led > last.term):
        return "its replica is not whole"
    # A former master leads with its own database, and what it says here is of its replica.
    known = reach(last, one) if one.state == MASTER or not one.led or one.epoch == last.epoch else None
    if known is None:
        return f"its replica is not of what {last.leader} had in term {last.term}"
    if known < last.floor:
        return "its replica lacks what was answered"
    if last.confirming is not None and last.confirming != one.name:
        return f"{last.confirming} has what was answered last"
    if last.confirming is None and last.position - known > max_lag:
        return f"its replica is {last.position - known} changes behind, and max_lag is {max_lag}"
    return ""


def reach(last: LastKey, one: CandidateKey) -> int | None:
    """Up to which position of the last leader's log this node has everything; None: it has another log. What it has
    beyond the end of an earlier life of that log, the last leader never had."""
    own = dict(one.past) | {one.epoch: one.position}
    for epoch, ended in ((last.epoch, None), *reversed(last.past)):
        if epoch in own:
            return own[epoch] if ended is None else min(own[epoch], ended)
    return None


def is_former(view: EtcdView, one: CandidateKey) -> bool:
    """Whether it is the leader of the last term, with its own agent database: nobody has more. It may have taken the
    lead again and never served: its log goes on with the same one then."""
    last = view.last
    if last is None or one.name != last.leader:
        return False
    if one.led <= last.term:
        return 0 < one.led == last.term
    return last.epoch in {one.epoch, *dict(one.past)} and (reach(last, one) or 0) >= last.floor


def unreadable(view: EtcdView) -> str:
    """The keys that cannot be read, for people."""
    return ", ".join(view.unreadable)[:MOST_NAMED]


def rank(view: EtcdView, one: CandidateKey, *, max_lag: int) -> int:
    """0: it is this node's turn; otherwise how many are before it: the furthest first, then the greater priority. Only
    for a node that may lead."""
    able = [other for other in view.candidates.values() if not objection(view, other, max_lag=max_lag)]
    if all(other.name != one.name for other in able):
        able.append(one)
    able = [one if other.name == one.name else other for other in able]
    ordered = sorted(
        able, key=lambda other: (not is_former(view, other), -_place(view, other), -other.priority, other.name)
    )
    return [other.name for other in ordered].index(one.name)


def _place(view: EtcdView, one: CandidateKey) -> int:
    return one.position if view.last is None else reach(view.last, one) or 0


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
    last = view.last
    # What it has said last may be of an earlier life of this log; the handover waits until it has everything.
    goes_on = last is not None and last.epoch == epoch and reach(last, one) is not None
    if one.state != FOLLOWING or (one.epoch != epoch and not goes_on):
        return "it has no whole replica of the present leader"
    return ""
