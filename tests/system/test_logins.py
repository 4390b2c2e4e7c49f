"""A client guesses passwords through a worker while all others go on."""

import json
import time
from pathlib import Path

import pytest

from clusterd.users import add_user, make_user
from tests.conftest import KEY, MakeRig
from tests.system.dapi_client import ask, client_of, request
from tools.rig.peer import StockWorker, wait_until
from tools.rig.ports import HOST

pytestmark = pytest.mark.slow
GUESSES = 400
FEW = {"clusterd": {"api": {"login_attempts": 10}}}
"""Each checked password takes 0.2 s of a core. The default is 50."""


def test_guesses_of_a_worker_with_the_key_are_refused_and_delay_no_other(make_rig: MakeRig, tmp_path: Path) -> None:
    rig = make_rig(1, overrides=FEW)
    add_user(str(rig.master.root), make_user("admin", "correct horse battery", time.time()))
    rig.start()
    rig.wait_equal(60)
    before = rig.processes("rig_manager_1")
    with StockWorker((HOST, rig.master.port), KEY, "guesser", tmp_path, cluster="rig") as worker:
        worker.join()
        for number in range(GUESSES):
            guess = request(
                "api.authentication",
                "check_user_master",
                {"user": "admin", "password": f"guess {number}"},
                request_type="local_master",
            )
            worker.connection.link.tell("dapi", f"{number} {guess}")
        (rig.master.root / "etc/rules/meanwhile.xml").write_text("<group name='meanwhile,'></group>")
        assert "affected_items" in json.dumps(ask(rig.master, "wazuh.cluster", "get_nodes_info"))
        rig.wait_equal(60)

        def is_said() -> bool:
            return "Too many failed logins through guesser" in (rig.master.root / "logs/cluster.log").read_text()

        wait_until(is_said, 120, "guesses are refused")
        right = {"user": "admin", "password": "correct horse battery"}
        answer = ask(rig.master, "api.authentication", "check_user_master", right, request_type="local_master")
        refusal = answer["__wazuh_exception__"]
        assert refusal["__class__"] == "WazuhTooManyRequests"
        assert refusal["__object__"]["code"] == 6000
        assert "logins through guesser" in rig.status()["rig_manager_1"]["problems"]
        with client_of(rig.master) as client:
            assert client.ask("echo-c", b"keepalive").payload == b"keepalive"
    assert rig.processes("rig_manager_1") == before
