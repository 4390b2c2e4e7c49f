"""What a node checks at its start: its user, the rights of its tree, and what earlier lives have left."""

import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from clusterd import rights
from clusterd.supervisor.privileges import PrivilegeProblem, owner_to_become, tree_problem
from clusterd.supervisor.sweep import remove_run_files, sweep_before_start
from tests.supervisor.helpers import make_tree
from tools.check import check

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
BECOME = """
import sys
from clusterd.supervisor.privileges import become, hand_over_own_files, owner_to_become, tree_problem
owner = owner_to_become("nobody")
hand_over_own_files(sys.argv[1], owner)
become(owner)
import os
print(os.getresuid(), os.getresgid(), os.getgroups())
print(tree_problem(sys.argv[1]))
"""


def as_nobody(root: Path) -> list[str]:
    done = subprocess.run([sys.executable, "-c", BECOME, str(root)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@as_root
def test_root_becomes_the_owner_in_every_way(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    ids, _ = as_nobody(make_tree(tmp_path))

    groups = os.getgrouplist("nobody", nobody.pw_gid)
    assert ids == f"{(nobody.pw_uid,) * 3} {(nobody.pw_gid,) * 3} {groups}"


@as_root
def test_unknown_owner_is_a_clear_refusal() -> None:
    with pytest.raises(PrivilegeProblem, match=r"no user 'nobody-at-all'.*clusterd\.owner in etc/cluster\.json"):
        owner_to_become("nobody-at-all")


@as_root
def test_root_as_owner_means_to_stay() -> None:
    assert owner_to_become("root") is None


@as_root
def test_root_that_the_owner_cannot_reach_is_named(tmp_path: Path) -> None:
    """pytest's directories are 0700 for root."""
    _, problem = as_nobody(make_tree(tmp_path / "a"))

    assert problem.startswith("user nobody cannot enter /")
    assert "clusterd.owner" in problem


@as_root
def test_own_files_of_a_run_as_root_are_given_to_the_owner_but_no_link_is_followed(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    (root / "logs/cluster.log").write_text("old")
    state = root / "queue/cluster/.clusterd/state"
    state.mkdir(parents=True)
    (state / "manifest-1").write_text("x")
    precious = root / "precious"
    precious.write_text("root's")
    (state / "soft").symlink_to(precious)
    os.link(precious, state / "hard")

    as_nobody(root)

    nobody = pwd.getpwnam("nobody").pw_uid
    assert (root / "logs/cluster.log").stat().st_uid == nobody
    assert (state / "manifest-1").stat().st_uid == nobody
    assert state.stat().st_uid == nobody
    assert precious.stat().st_uid == 0


def test_missing_directory_is_named(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    (root / "queue/cluster").rmdir()

    assert tree_problem(str(root)) == f"{root}/queue/cluster is missing: make the tree with clusterd init"
    assert tree_problem(str(make_tree(root))) is None


def test_sweep_can_be_repeated_and_keeps_the_state(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    for _ in range(2):
        sweep_before_start(str(root))
        (root / "queue/cluster/.clusterd/state/shard-0-of-2").write_text("digests")
        (root / "queue/cluster/.clusterd/spool/dir").mkdir()
        (root / "var/run/clusterd/board").write_text("old")
    sweep_before_start(str(root))

    assert list((root / "var/run/clusterd").iterdir()) == []
    assert list((root / "queue/cluster/.clusterd/spool").iterdir()) == []
    assert (root / "queue/cluster/.clusterd/state/shard-0-of-2").exists()


@pytest.mark.parametrize("relative", ["", "/spool", "/state"])
def test_own_directory_that_is_a_file_is_made_again(tmp_path: Path, relative: str) -> None:
    root = make_tree(tmp_path)
    sweep_before_start(str(root))
    remove_run_files(str(root))
    own = root / f"queue/cluster/.clusterd{relative}"
    shutil.rmtree(own)
    own.write_text("no directory")
    sweep_before_start(str(root))
    assert (root / "queue/cluster/.clusterd/state").is_dir()
    assert (root / "queue/cluster/.clusterd/spool").is_dir()


def test_state_that_is_no_file_is_removed(tmp_path: Path) -> None:
    """A directory in a manifest's place once stopped every scan for ever."""
    root = make_tree(tmp_path)
    state = root / "queue/cluster/.clusterd/state"
    (state / "manifest-x/deep").mkdir(parents=True)
    (state / "shard-0-of-2").symlink_to("/etc/passwd")
    (state / "shard-1-of-2").write_text("kept")
    sweep_before_start(str(root))
    assert os.listdir(state) == ["shard-1-of-2"]


def test_removing_run_files_twice_is_fine(tmp_path: Path) -> None:
    root = make_tree(tmp_path)
    sweep_before_start(str(root))
    remove_run_files(str(root))
    remove_run_files(str(root))
    assert list((root / "var/run").iterdir()) == []


PRIVATE = """
import os, resource, sys
from clusterd.rights import keep_memory_private
from clusterd.supervisor.privileges import become, owner_to_become
if os.geteuid() == 0:
    become(owner_to_become("nobody"))
keep_memory_private()
pid = os.fork()
if pid == 0:
    print(resource.getrlimit(resource.RLIMIT_CORE), os.stat(f"/proc/{os.getpid()}/environ").st_uid, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.parametrize("is_debuggable", [False, True])
def test_only_root_sees_the_memory_of_the_node(is_debuggable: bool) -> None:
    """In /proc the files of a process that may not be dumped belong to root."""
    environment = os.environ | {"CLUSTERD_DEBUGGABLE": "1" if is_debuggable else ""}
    done = subprocess.run([sys.executable, "-c", PRIVATE], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("(0, 0) ")
    if not is_debuggable:
        assert done.stdout == "(0, 0) 0\n"


BACKGROUND = """
import ctypes, os, time
from clusterd.rights import keep_memory_private
from clusterd.scheduling import run_in_background
from clusterd.supervisor.privileges import become, owner_to_become
if os.geteuid() == 0:
    become(owner_to_become("nobody"))
keep_memory_private()
os.setsid()
for _ in range(200):
    # The system takes it ten times a second from all of its processes.
    run_in_background()
    nice = open("/proc/self/autogroup").read().split()[-1]
    if nice == "10":
        break
    time.sleep(0.1)
print(nice, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/autogroup"), reason="the kernel has no autogroups")
def test_a_private_process_can_still_say_that_it_works_in_the_background() -> None:
    environment = {key: value for key, value in os.environ.items() if key != "CLUSTERD_DEBUGGABLE"}
    command = [sys.executable, "-c", BACKGROUND]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["10", "0"]


PROMPT = """
import os
from clusterd import scheduling
from clusterd.rights import keep_memory_private
from clusterd.scheduling import allow_prompt_nice, run_promptly
from clusterd.supervisor.privileges import become, owner_to_become
scheduling._SESSION_TRIES = 500  # nodes of other tests may be at it, too: ten times a second for the whole system
before = os.getpriority(os.PRIO_PROCESS, 0)
allow_prompt_nice()
become(owner_to_become("nobody"))
keep_memory_private()
if os.fork() == 0:
    os.setsid()
    run_promptly()
    grown = before - os.getpriority(os.PRIO_PROCESS, 0)
    session = open("/proc/self/autogroup").read().split()[-1] if os.path.exists("/proc/self/autogroup") else "-10"
    print(grown, session, flush=True)
else:
    os.wait()
try:
    os.nice(-1)
except PermissionError:
    print("no more", flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may allow it")
def test_one_child_of_a_node_that_root_has_started_goes_first_and_nobody_gains_more() -> None:
    done = subprocess.run([sys.executable, "-c", PROMPT], capture_output=True, text=True, check=True)
    if done.stdout.startswith("0 "):
        pytest.skip("this system forbids it, as in some containers")
    assert done.stdout.splitlines() == ["10 -10", "no more", "no more"]


CONF = f"""<ossec_config><cluster><name>c</name><node_name>n</node_name><node_type>master</node_type>
<key>{"k" * 32}</key><port>1516</port><bind_addr>127.0.0.1</bind_addr><nodes><node>127.0.0.1</node></nodes>
<disabled>no</disabled></cluster></ossec_config>"""


@pytest.mark.parametrize(
    ("uid", "owner", "there", "warned"),
    [(0, "", False, True), (0, "", True, False), (0, "root", False, False), (1000, "", False, False)],
)
def test_a_node_that_is_root_by_accident_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, uid: int, owner: str, there: bool, warned: bool
) -> None:
    def getpwnam(name: str) -> pwd.struct_passwd:
        return pwd.struct_passwd((name, "x", users[name], users[name], "", "/", ""))

    users = {"root": 0} | ({"wazuh": 999} if there else {})
    monkeypatch.setattr(rights.os, "geteuid", lambda: uid)
    monkeypatch.setattr(rights.pwd, "getpwnam", getpwnam)
    assert (rights.too_many_rights(owner) is not None) is warned
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/ossec.conf").write_text(CONF)
    (tmp_path / "etc/cluster.json").write_text(json.dumps({"clusterd": {"owner": owner}} if owner else {}))
    lines = check(str(tmp_path)).lines
    assert any("warning: the node runs as root" in line for line in lines) is warned
