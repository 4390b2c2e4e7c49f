"""Tries etcd as the election would: its members, a majority, TLS, the login, the rights below the prefix."""

import asyncio
import time
from collections.abc import Iterator

from clusterd.election.etcd import Compare, EndpointStatus, Etcd, EtcdRefused, EtcdUnavailable, Put
from clusterd.settings import Settings
from tools.doctor.finding import Finding

ASK_S = 5.0
SLOW_S = 1.0
NEVER = 2**62
"""No key was made at this revision."""
LOG = "see the log of that member, and: etcdctl endpoint status"


def etcd(settings: Settings) -> Iterator[Finding]:
    """Yields what keeps this node from taking part in the election. Changes nothing in etcd."""
    if settings.clusterd.ha.enabled:
        yield from asyncio.run(_try(settings))


async def _try(settings: Settings) -> list[Finding]:
    client = Etcd(settings.clusterd.ha.etcd, timeout_s=ASK_S)
    prefix = settings.ha_prefix
    try:
        members = await client.status()
        found = list(_members(members))
        began = time.monotonic()
        await client.read(f"{prefix}/")
        took_s = time.monotonic() - began
        # The right to write is asked for, and nothing is written: the condition does not hold.
        await client.txn([Compare(f"{prefix}/leader", "create_revision", NEVER)], [Put(f"{prefix}/leader", b"")])
    except EtcdRefused as failure:
        cure = "correct clusterd.ha.etcd in etc/cluster.json, or the user and its rights in etcd"
        return [Finding("etcd refuses", str(failure), cure)]
    except EtcdUnavailable as failure:
        return [Finding("no etcd", str(failure), "start a majority of its members; see clusterd.ha.etcd.endpoints")]
    finally:
        await client.close()
    if took_s > SLOW_S:
        text = f"etcd needs {took_s:.1f} s for an answer"
        found.append(Finding("etcd is slow", text, "give it a disk of its own, or raise clusterd.ha.lease", False))
    return found


def _members(members: list[EndpointStatus]) -> Iterator[Finding]:
    """Yields what is wrong with single members, while a majority serves."""
    for one in members:
        if one.problem:
            yield Finding("etcd member", f"{one.endpoint} {one.problem}", LOG, is_fault=False)
        for text in one.errors:
            yield Finding("etcd alarm", f"{one.endpoint}: {text}", "etcdctl alarm list; etcdctl compact, defrag")
    clusters = {one.cluster_id: one.endpoint for one in members if one.cluster_id}
    if len(clusters) > 1:
        text = f"{' and '.join(clusters.values())} belong to different etcds"
        yield Finding("different etcds", text, "name the members of one etcd in clusterd.ha.etcd.endpoints")
