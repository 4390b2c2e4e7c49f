"""Who may talk to etcd: certificates and logins, right ones and wrong ones."""

from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from clusterd.election.etcd import (
    Etcd,
    EtcdRefused,
    EtcdUnavailable,
    Put,
)
from tests.election.certificates import Authority
from tests.election.etcd_talks import encoded, post, talk, until
from tools.rig.etcd import EtcdCluster
from tools.rig.etcd import etcd_cluster as running
from tools.rig.guard import guarded

pytestmark = pytest.mark.slow


@pytest.fixture
def base() -> Iterator[Path]:
    with guarded("etcd-") as directory:
        yield directory


def test_tls_with_certificates_of_both_sides_serves_and_anything_else_is_named(base: Path) -> None:
    good, bad = Authority(base, "good"), Authority(base, "bad")
    directory = base / "members"
    directory.mkdir()
    made = EtcdCluster.create(directory, 1, scheme="https")
    cert, key = good.issue("server", made.host("etcd-1"))
    made.options = {"cert-file": cert, "key-file": key, "trusted-ca-file": good.ca, "client-cert-auth": "true"}
    mine, other = good.issue("node", "127.0.0.1"), bad.issue("stranger", "127.0.0.1")
    try:
        made.start()
        url = made.endpoints[0]
        plain = url.replace("https", "http")

        async def works(etcd: Etcd) -> None:
            assert await until(lambda: etcd.grant(60)) > 0

        talk([url], works, ca=str(good.ca), cert=str(mine[0]), key=str(mine[1]))

        def refused(text: str, url: str = url, **more: str) -> None:
            async def what(etcd: Etcd) -> None:
                with pytest.raises((EtcdRefused, EtcdUnavailable), match=text):
                    await etcd.read("/x/")
                (state,) = await etcd.status()
                assert state.problem

            talk([url], what, **more)

        refused("not trusted", ca=str(bad.ca), cert=str(mine[0]), key=str(mine[1]))
        refused("does not take this node's certificate", ca=str(good.ca))
        refused("does not take this node's certificate", ca=str(good.ca), cert=str(other[0]), key=str(other[1]))
        refused("wants TLS", plain)
        refused("cannot be used", ca=str(base / "none.pem"))
    finally:
        made.stop()


def test_login_serves_is_renewed_when_forgotten_and_wrong_ones_are_named_without_the_password(base: Path) -> None:
    secret = "correct-horse-7"
    with running(base, 1) as cluster:
        url = cluster.endpoints[0]
        for user in ("root", "clusterd"):
            post(url, "auth/user/add", {"name": user, "password": secret})
        for role in ("root", "cluster"):
            post(url, "auth/role/add", {"name": role})
        permission = {"permType": "READWRITE", "key": encoded("/c/"), "range_end": encoded("/c0")}
        post(url, "auth/role/grant", {"name": "cluster", "perm": permission})
        post(url, "auth/user/grant", {"user": "root", "role": "root"})
        post(url, "auth/user/grant", {"user": "clusterd", "role": "cluster"})
        right, wrong = base / "right", base / "wrong"
        right.write_text(secret + "\n")
        wrong.write_text("wrong-" + secret)

        async def open_door(etcd: Etcd) -> None:  # no login is wanted yet
            await etcd.txn([], [Put("/c/x", b"1")])
            post(url, "auth/enable", {})
            assert set((await etcd.read("/c/")).items) == {"/c/x"}  # now one is

        talk([url], open_door, user="clusterd", password_file=str(right))

        async def works(etcd: Etcd) -> None:
            lease = await etcd.grant(300)
            await etcd.txn([], [Put("/c/y", b"1", lease)])
            async with aclosing(etcd.watch("/c/", 1)) as changes:
                assert [one.key for one in await anext(changes)] == ["/c/x", "/c/y"]
                cluster.kill("etcd-1")  # it knows no login of before
                cluster.start()
                cluster.wait_leader()
                assert await until(lambda: etcd.keep_alive(lease)) > 0
                await etcd.txn([], [Put("/c/z", b"1")])
            async with aclosing(etcd.watch("/c/", 1)) as changes:
                assert [one.key for one in await anext(changes)] == ["/c/x", "/c/y", "/c/z"]
            with pytest.raises(EtcdRefused, match="user clusterd read and write"):
                await etcd.read("/d/")
            with pytest.raises(EtcdRefused, match="user clusterd read and write"):
                await anext(etcd.watch("/d/", 1))

        talk([url], works, user="clusterd", password_file=str(right), witness="/c/leader")

        def refused(text: str, **more: str) -> None:
            async def what(etcd: Etcd) -> None:
                with pytest.raises(EtcdRefused, match=text) as failure:
                    await etcd.read("/c/")
                assert secret not in str(failure.value)

            talk([url], what, **more)

        refused("does not let the user clusterd in", user="clusterd", password_file=str(wrong))
        refused("does not let the user nobody in", user="nobody", password_file=str(right))
        refused("wants a login")
        refused("cannot be read", user="clusterd", password_file=str(base / "none"))
