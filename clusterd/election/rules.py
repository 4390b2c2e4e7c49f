"""Which nodes may lead, and which of them does: pure functions of the keys in etcd (docs/ha.md)."""

from clusterd.election.keys import CandidateKey, EtcdView, LastKey, OrderKey

FOLLOWING, MASTER = "following", "master"
MOST_NAMED = 200


def objection(view: EtcdView, one: CandidateKey, *, max_lag: int) -> str:
    """Returns why this node may not lead now; empty: it may. Every node with the same view returns the same."""
    return standing_objection(view, one) or _objection_of_last(view, one, max_lag)


def standing_objection(view: EtcdView, one: CandidateKey) -> str:
    """Returns the objection that does not depend on the last leader."""
    config = view.config
    if config is None:
        return "etcd knows nothing of this cluster: clusterd ha bootstrap"
    if one.fingerprint != config.fingerprint:
        return "it has another cluster key or name than the cluster of this prefix"
    if one.priority == 0:
        return "its priority is 0"
    return one.may_not_lead


def _objection_of_last(view: EtcdView, one: CandidateKey, max_lag: int) -> str:
    """Returns the objection that this node may lack what the last leader has answered."""
    config, last = view.config, view.last
    assert config is not None
    if last is None:
        if view.unreadable:
            return f"{unreadable(view)} cannot be read in etcd"
        return "" if one.name == config.first else f"only {config.first or 'nobody'} may be the first to lead"
    if is_former(view, one):
        return ""
    if one.name == last.leader and one.led == last.term:
        return "its disk was set back: it lacks what it had answered"
    # A node that took the lead since and never served still has the log of that moment.
    if one.state != FOLLOWING and not (one.state == MASTER and one.led > last.term):
        return "its replica is not whole"
    # A former master would lead with its own database, but its key describes its replica.
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
    """Returns the position of the last leader's log up to which this node has everything; None: it has another log. The
    last leader never had what this node has beyond the end of an earlier life of that log."""
    own = dict(one.past) | {one.epoch: one.position}
    for epoch, ended in ((last.epoch, None), *reversed(last.past)):
        if epoch in own:
            return own[epoch] if ended is None else min(own[epoch], ended)
    return None


def is_former(view: EtcdView, one: CandidateKey) -> bool:
    """Returns whether it led last, and has its own agent database of then: no node has more, unless its log shows that
    its disk was set back. It may have taken the lead again without serving: then its log continues the same one."""
    last = view.last
    if last is None or one.name != last.leader:
        return False
    if one.led <= last.term:
        known = reach(last, one)
        return 0 < one.led == last.term and (known is None or known >= last.floor)
    return last.epoch in {one.epoch, *dict(one.past)} and (reach(last, one) or 0) >= last.floor


def unreadable(view: EtcdView) -> str:
    """Returns the unreadable keys, for people."""
    return ", ".join(view.unreadable)[:MOST_NAMED]


def rank(view: EtcdView, one: CandidateKey, *, max_lag: int) -> int:
    """Returns how many nodes are before this one; 0: it is its turn. The last leader comes first, unless its log lacks
    what it had (its disk was set back, or lost power): one that has more may be about to come back. Then the furthest,
    then the greater priority. Only for a node that may lead."""
    able = [other for other in view.candidates.values() if not objection(view, other, max_lag=max_lag)]
    if all(other.name != one.name for other in able):
        able.append(one)
    able = [one if other.name == one.name else other for other in able]

    def place(other: CandidateKey) -> tuple[bool, int, bool, int, str]:
        is_last, known = is_former(view, other), _place(view, other)
        return not is_last or _lacks(view, other), -known, not is_last, -other.priority, other.name

    before = [other.name for other in sorted(able, key=place)].index(one.name)
    return max(before, int(is_former(view, one) and _lacks(view, one)))


def _place(view: EtcdView, one: CandidateKey) -> int:
    return one.position if view.last is None else reach(view.last, one) or 0


def _lacks(view: EtcdView, one: CandidateKey) -> bool:
    """Returns whether it is known to have less than the last leader had for long enough that others may have it."""
    last = view.last
    if last is None:
        return False
    known = reach(last, one)
    return known is not None and known < last.position


def order_of_now(view: EtcdView) -> OrderKey | None:
    """Returns the order that names the leader after the last term."""
    order, ended = view.order, 0 if view.last is None else view.last.term
    return order if order is not None and not order.refused and order.to and order.term == ended else None


def is_forced(view: EtcdView, name: str) -> bool:
    """Whether an operator has ordered that this node leads despite all objections."""
    order = order_of_now(view)
    return order is not None and order.kind == "failover" and order.to == name


def best_follower(view: EtcdView, epoch: str) -> str:
    """Returns the node to which the leader hands over when the order names none; empty: there is none."""
    able = [
        one
        for one in view.candidates.values()
        if one.name != view.leader_name and not follower_objection(view, one, epoch)
    ]
    confirming = "" if view.last is None else view.last.confirming
    able.sort(key=lambda one: (one.name != confirming, -one.priority, -one.position, one.name))
    return able[0].name if able else ""


def follower_objection(view: EtcdView, one: CandidateKey, epoch: str) -> str:
    """Returns why the leader, whose log is `epoch`, cannot hand over to this node; empty: it can."""
    standing = standing_objection(view, one)
    if standing:
        return standing
    last = view.last
    # Its key may still describe an earlier life of this log; the handover waits until it has everything.
    goes_on = last is not None and last.epoch == epoch and reach(last, one) is not None
    if one.state != FOLLOWING or (one.epoch != epoch and not goes_on):
        return "it has no whole replica of the present leader"
    return ""
