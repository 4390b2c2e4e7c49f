"""An etcd that is slow, unreachable or made anew, and a leader that goes on without it."""

from clusterd.election.shown import problems, shown
from tests.election.stories import P, last, order, pass_time, three, told
from tests.fakes.etcd import EtcdStore, HandClock, Voter, candidate, master

# ---- etcd in trouble -------------------------------------------------------------------------------------------------


@told
async def test_no_node_leads_in_a_wiped_etcd_before_bootstrap(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    term = one.elector.tenure.term
    store.wipe()
    await pass_time(40, one, two, other)
    assert not any(node.leads for node in (one, two, other))
    assert "clusterd ha bootstrap" in one.elector.session.problem
    found = await order(one, "bootstrap", term=term)
    assert found.ok, found.text
    await pass_time(10, one, two, other)
    assert one.leads
    assert one.elector.tenure.term > term, "terms only grow, although etcd counts anew"
    assert not (await order(two, "bootstrap")).ok


@told
async def test_bootstrap_of_a_candidate_needs_a_whole_replica_or_force(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    store.wipe()
    await pass_time(20, one, two, other)
    two.node.set(state="copying")
    assert "its replica is not whole" in (await order(two, "bootstrap")).text
    assert (await order(two, "bootstrap", force=True)).ok
    await pass_time(10, one, two, other)
    assert two.leads
    assert two.node.true.term > 0


@told
async def test_etcd_restored_from_a_backup_makes_no_leader_of_an_older_term(clock: HandClock, store: EtcdStore) -> None:
    one = Voter(store, "one", master())
    await one.step(3)
    saved = dict(store.items), store.revision
    await one.elector.stop()
    one.node.set(term=5000, led=5000)
    store.items, store.revision = saved
    store.leases.clear()
    store.items = {key: item for key, item in store.items.items() if not item.lease}
    await pass_time(60, one)
    assert not one.leads
    assert "backup" in one.elector.session.waits_for


@told
async def test_two_clusters_in_one_etcd_do_not_affect_each_other(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    theirs = Voter(store, "one", master(), prefix="/clusterd/wazuh2/", cluster="wazuh2", fingerprint="g")
    await theirs.step(3)
    assert theirs.leads
    assert one.leads
    clock.now += 16
    await pass_time(5, two, other)
    assert two.leads
    assert set(shown(two.elector, two.node.true, clock.now)["away"]) == {"one"}


@told
async def test_node_with_another_cluster_key_below_the_prefix_never_takes_part(
    clock: HandClock, store: EtcdStore
) -> None:
    _one, two, other = await three(store)
    strange = Voter(store, "strange", candidate(position=9999), fingerprint="g")
    await strange.step(2)
    assert "another key or name" in strange.elector.session.problem
    # Its operator may have changed the key of all nodes: then etcd has to forget the former one.
    refused = await order(strange, "bootstrap")
    assert "etcdctl del --prefix" in refused.text
    clock.now += 16
    await pass_time(5, strange, two, other)
    assert two.leads
    assert not strange.leads


@told
async def test_only_one_of_two_nodes_with_the_same_name_leads_and_status_says_so(
    clock: HandClock, store: EtcdStore
) -> None:
    _one, two, other = await three(store)
    twin = Voter(store, "two", candidate())
    await twin.step(3)
    assert "takes part as two" in twin.elector.session.problem
    clock.now += 16
    await pass_time(6, two, other)
    await pass_time(3, twin, two, other)
    assert two.leads
    assert not twin.leads


@told
async def test_unreadable_keys_are_named_and_have_no_effect(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store)
    store.put(f"{P}candidates/x", b"{")
    store.put(f"{P}last", b"\xff")
    await pass_time(4, one)
    assert one.leads
    assert last(store).term == one.elector.tenure.term, "the leader writes it anew"
    store.put(f"{P}last", b"\xff")
    store.put(f"{P}leader", b"nonsense", store.items[f"{P}leader"].lease)
    await pass_time(30, two, other)
    assert not two.leads
    assert not other.leads


@told
async def test_only_a_higher_term_of_another_node_is_followed(clock: HandClock, store: EtcdStore) -> None:
    _one, two, _ = await three(store)
    two.node.set(term=10_000, master="far:1516", master_name="far")
    await two.step()
    assert two.node.true.master_name == "far"
    assert "has seen term 10000" in two.elector.session.problem


# ---- failsafe --------------------------------------------------------------------------------------------------------


@told
async def test_leader_goes_on_without_etcd_while_every_candidate_promises_not_to_lead(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store, failsafe=True)
    await pass_time(20, one, two, other)
    one.etcd.away = True

    def ask() -> None:
        term = one.elector.tenure.term
        one.node.agreed = {node.name: node.elector.failsafe(term, "one").yes for node in (two, other)}

    one.node.on_ask = ask
    await pass_time(100, one, two, other, tick_s=0.5)
    assert one.leads, "its lease has ended long ago"
    assert set(one.node.asked[-1]) == {"two", "other"}
    assert "as this node has promised it" in two.elector.session.waits_for
    one.node.on_ask = lambda: None
    one.node.agreed = {"two": True}
    await pass_time(60, one, two, other, tick_s=0.5)
    assert not one.leads, "one that cannot be asked ends it"
    assert two.leads
    one.etcd.away = False
    await pass_time(5, one, two, other)
    assert one.node.true.master_name == "two"


@told
async def test_failsafe_is_off_by_default(clock: HandClock, store: EtcdStore) -> None:
    one, _two, _other = await three(store)
    one.etcd.away = True
    await pass_time(13, one)
    assert not one.leads
    assert not one.node.asked


@told
async def test_candidate_promises_only_to_the_leader_of_the_term_that_it_knows(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, _other = await three(store, failsafe=True)
    term = one.elector.tenure.term
    await two.step()
    assert two.elector.failsafe(term, "one").yes
    assert not two.elector.failsafe(term + 1, "one").yes
    assert not two.elector.failsafe(term, "other").yes
    assert not one.elector.failsafe(term, "one").yes, "it leads itself"
    two.node.set(is_changing=True)
    assert not two.elector.failsafe(term, "one").yes


@told
async def test_promise_survives_a_restart_and_counts_when_given_while_the_node_takes_the_lead(
    clock: HandClock, store: EtcdStore
) -> None:
    one, two, other = await three(store, failsafe=True)
    await pass_time(20, one, two, other)
    term = one.elector.tenure.term
    store.end_lease(store.items[f"{P}leader"].lease)
    two.restart()
    two.etcd.during = lambda call: call == "txn" and two.elector.failsafe(term, "one") and None
    await pass_time(3, two)
    assert not two.leads
    assert f"{P}leader" not in store.items
    two.etcd.during = lambda call: None
    two.restart()
    await pass_time(3, two)
    assert not two.leads, "the promise is kept in the run directory"
    two.reboot()
    await pass_time(10, two)
    assert not two.leads, "who begins anew has forgotten what it promised"


@told
async def test_status_names_what_is_wrong_for_as_long_as_it_lasts(clock: HandClock, store: EtcdStore) -> None:
    one, two, other = await three(store, failsafe=True)
    assert list(problems(one.elector, None)) == []
    program = {"name": "on_promote", "term": 7, "problem": "ended with exit code 1"}
    assert list(problems(one.elector, program)) == ["on_promote of term 7 failed, it ended with exit code 1"]
    one.etcd.away = two.etcd.away = other.etcd.away = True
    await pass_time(20, one, two, other)
    assert one.leads
    (found,) = problems(one.elector, None)
    assert "etcd cannot be asked" in found
    assert "this node goes on leading" in found
    (found,) = problems(two.elector, None)
    assert "this node goes on leading" not in found
    one.etcd.away = two.etcd.away = other.etcd.away = False
    await pass_time(5, one, two, other)
    assert (await order(two, "pause")).ok
    await pass_time(2, one, two, other)
    for node in (one, two, other):
        assert list(problems(node.elector, None)) == ["the election is paused, nobody takes over: clusterd ha resume"]
