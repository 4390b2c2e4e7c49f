"""What every command asks before it looks into a root, and how one ends that is interrupted or shown on a poor
terminal."""

import errno
import grp
import io
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from clusterd import gate, pidfile
from clusterd.role import ROLE_FILE, RoleDamaged, read_role
from clusterd.supervisor.privileges import WORKING_DIRECTORIES, tree_problem
from tools import at_once, cluster_control, drawing, wazuh_clusterd
from tools.cli import COMMANDS, FOR_EVERYBODY, NEED_FILES, READ_BOARD, cluster, main

NOBODY = 65534
LOADED = (grp, pwd)
"""The other user may not be able to read the interpreter's modules."""
CLOSED = "the user nobody may not look into /x/etc: run this as root"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as another user")


def as_nobody(look: Callable[[], object]) -> object:
    """What `look` returns to another user, or the text of what it raises."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                found = look()
            except RoleDamaged as failure:
                found = str(failure)
            os.write(write_fd, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(data)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root that everybody may reach, as `init` makes it: what is below it is closed to others."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == "root" and parent != Path("/tmp") and str(parent).startswith("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    root = tmp_path / "m"
    for relative in ("etc", "queue/cluster/.clusterd", "var/run"):
        (root / relative).mkdir(parents=True)
    for relative in ("etc", "queue", "var"):
        (root / relative).chmod(0o770)
    root.chmod(0o755)
    return root


@needs_root
def test_user_who_may_not_look_is_told_so_and_how_it_goes(root: Path) -> None:
    assert gate.closed_to_us(str(root)) is None
    said = as_nobody(lambda: gate.closed_to_us(str(root)))
    assert said == f"the user nobody may not look into {root}/etc: run this as root"
    os.chown(root / "etc", 0, 2)
    said = as_nobody(lambda: gate.closed_to_us(str(root)))
    assert str(said).endswith("run this as root, or as a user of the group bin")
    assert as_nobody(lambda: gate.closed_to_us(str(root / "nowhere"))) is None


@needs_root
def test_user_of_the_group_who_may_not_read_the_board_is_not_told_that_the_node_hangs(root: Path) -> None:
    """A monitoring system would raise an alarm."""
    run = root / "var/run/clusterd"
    run.mkdir(mode=0o700)
    assert gate.run_dir_closed_to_us(str(root)) is None
    os.chown(run, 1, 1)
    for path in (root / "var", root / "var/run"):
        path.chmod(0o755)
    said = as_nobody(lambda: gate.run_dir_closed_to_us(str(root)))
    assert (
        said == f"the user nobody may not look into {run}: run this as root, or as the user {pwd.getpwuid(1).pw_name}"
    )


@needs_root
def test_who_would_make_files_that_the_node_cannot_read_is_told_so(root: Path) -> None:
    """A member of the node's group may write into etc: all logins of the API failed after that."""
    (root / "etc").chmod(0o777)
    said = "the user nobody would make files that the node cannot read: run this as root, or as the node's user"
    assert as_nobody(lambda: gate.not_the_nodes_user(str(root), "wazuh")) == said
    assert as_nobody(lambda: gate.not_the_nodes_user(str(root), "nobody")) is None
    os.chown(root / "etc", NOBODY, 0)
    assert as_nobody(lambda: gate.not_the_nodes_user(str(root), "wazuh")) is None
    assert gate.not_the_nodes_user(str(root), "wazuh") is None


@needs_root
def test_user_of_the_running_node_is_not_refused_where_root_owns_etc(root: Path) -> None:
    """In a container with any user id the image's etc belongs to root, and to a group that may write."""
    (root / "etc").chmod(0o777)
    (root / "var/run").mkdir(parents=True, exist_ok=True)
    for path in (root / "var", root / "var/run"):
        path.chmod(0o755)
    ours, _ = pidfile.claim(str(root))
    try:
        assert "cannot read" in str(as_nobody(lambda: gate.not_the_nodes_user(str(root), "wazuh")))
        os.chown(ours.path, NOBODY, 0)
        assert as_nobody(lambda: gate.not_the_nodes_user(str(root), "wazuh")) is None
    finally:
        ours.remove()
    stale = root / f"var/run/wazuh-clusterd-{os.getpid()}.pid"
    stale.touch()
    os.chown(stale, NOBODY, 0)
    assert "cannot read" in str(as_nobody(lambda: gate.not_the_nodes_user(str(root), "wazuh"))), "no node runs"


@pytest.mark.parametrize("words", ["enable", "user add x", "user remove x", "user role x admin"])
def test_commands_that_make_files_of_the_api_ask_for_it(
    words: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.cli_api.not_the_nodes_user", lambda root, owner: CLOSED)
    done = CliRunner().invoke(cluster, ["--root", str(root), "api", *words.split()])
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"clusterd: {CLOSED}\n")


@pytest.mark.parametrize("name", ["check", *READ_BOARD])
def test_commands_that_read_the_board_ask_for_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tools.cli", "tools.at_once"):
        monkeypatch.setattr(f"{module}.run_dir_closed_to_us", lambda root: CLOSED)
    words = ["--master", "x"] if name == "demote" else []
    done = CliRunner().invoke(cluster, ["--root", str(tmp_path), name, *words])
    told = (3, f"CLUSTERD UNKNOWN - {CLOSED}\n", "") if name == "check" else (1, "", f"clusterd: {CLOSED}\n")
    assert (done.exit_code, done.stdout, done.stderr) == told


@needs_root
def test_role_that_another_user_may_not_read_is_not_called_damaged(root: Path) -> None:
    """Who removed the file for it would let a master lead that must not."""
    for directory in (root / "queue", root / "queue/cluster", root / "queue/cluster/.clusterd"):
        directory.chmod(0o755)
    path = root / ROLE_FILE
    path.write_text('{"term":3}')
    path.chmod(0o600)
    said = str(as_nobody(lambda: read_role(str(root)) and None))
    assert "run this as root or as the node's user" in said
    assert "remove" not in said


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in FOR_EVERYBODY])
def test_every_command_asks_at_the_gate(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.cli.closed_to_us", lambda root: CLOSED)
    lines = {
        "store": ["renew"],
        "api": ["user", "list"],
        "control": ["nodes"],
        "forget": ["w"],
        "ha": ["status"],
        "demote": ["--master", "x"],
    }
    done = CliRunner().invoke(cluster, ["--root", str(tmp_path), name, *lines.get(name, [])])
    assert (done.exit_code, done.stderr) == (1, f"clusterd: {CLOSED}\n")
    assert list(tmp_path.iterdir()) == []


def test_check_that_may_not_look_is_unknown_and_says_so_as_a_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tools.at_once.closed_to_us", lambda root: CLOSED)
    done = CliRunner().invoke(cluster, ["--root", str(tmp_path), "check"])
    assert (done.exit_code, done.output) == (3, f"CLUSTERD UNKNOWN - {CLOSED}\n")


@needs_root
def test_check_that_may_not_read_a_pid_file_is_unknown(root: Path) -> None:
    """As of a node that root ran and that was killed: the code of other commands that fail would be a warning."""
    for relative in ("etc", "queue", "queue/cluster", "var", "var/run"):
        (root / relative).chmod(0o755)
    pid_file = root / "var/run/wazuh-clusterd-7.pid"
    pid_file.write_text("7\n")
    pid_file.chmod(0o600)
    assert at_once.check(str(root), 60.0, 600.0, None) == 2, "as root"
    assert as_nobody(lambda: int(at_once.check(str(root), 60.0, 600.0, None))) == 3


@pytest.mark.parametrize("line", ["stop", "store renew", "store backup x", "api user list", "api user remove x"])
def test_command_that_works_on_files_wants_a_node_and_makes_nothing(tmp_path: Path, line: str) -> None:
    assert line.split()[0] in NEED_FILES
    done = CliRunner().invoke(cluster, [*line.split(), "--root", str(tmp_path)])
    assert (done.exit_code, done.stderr) == (4, f"clusterd: {gate.no_node(str(tmp_path))}\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("file", [None, ".clusterd-0-pid1-0.tmp"])
def test_disk_that_is_full_is_named_by_the_root_where_the_system_names_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str | None
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)

    monkeypatch.setattr("tools.cli_init.init_node", full)
    done = CliRunner().invoke(cluster, ["--root", str(tmp_path), "init", "--type", "master", "--name", "m"])
    assert (done.exit_code, done.stderr) == (1, f"clusterd: {tmp_path}: No space left on device\n")


@needs_root
def test_read_only_disk_is_no_matter_of_owners(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for relative in WORKING_DIRECTORIES:
        (root / relative).mkdir(parents=True, exist_ok=True)
    assert tree_problem(str(root)) is None
    real = os.statvfs
    flags = os.ST_RDONLY
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*tuple(real(path))[:8], flags, 255)))
    said = str(tree_problem(str(root)))
    assert "is on a file system that is mounted read-only" in said
    assert "give it to" not in said


def test_stock_tool_says_in_one_line_what_is_wrong_with_the_configuration(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cluster_control.run(str(root), ["-l"]) == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", f"ERROR: {root}/etc/ossec.conf: cannot be read: No such file or directory\n")


# ---- Ctrl-C and terminals --------------------------------------------------------------------------------------------

INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.{handler})
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "tools.{module}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["--version"]
from tools.entry import clusterd
clusterd()
"""


@pytest.mark.parametrize("module", ["cli", "at_once"])
@pytest.mark.parametrize(("handler", "code"), [("default_int_handler", -2), ("SIG_IGN", 0)])
def test_interrupt_while_a_command_loads_ends_it_without_a_word(handler: str, code: int, module: str) -> None:
    program = INTERRUPTED.format(handler=handler, module=module)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (code, "")


def test_command_whose_output_is_closed_ends_without_a_word() -> None:
    program = "import sys; sys.stdout = None; sys.argv[1:] = ['--help']; from tools.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_command_whose_reader_has_gone_ends_as_if_it_had_not(root: Path) -> None:
    """`clusterd log | head -1` in a script with `set -o pipefail`."""
    ours, its = os.pipe()
    os.close(ours)
    with open(its, "wb") as pipe:
        line = [sys.executable, "-m", "tools.entry", "--root", str(root), "completion", "fish"]
        done = subprocess.run(line, stdout=pipe, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("stream", "line", "code"),
    [
        ("stdout", "events", 0),
        ("stdout", "history --follow", 0),
        ("stdout", "top", 1),
        ("stdin", "top", 1),
        ("stdin", "api user add ann", 1),
        ("stdin", "api user add ann --password-file -", 1),
        ("stderr", "log-level", 4),
    ],
)
def test_command_without_one_of_its_streams_ends_as_with_an_empty_one(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], stream: str, line: str, code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["clusterd", "--root", str(root), *line.split()])
    monkeypatch.setattr(sys, stream, None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capfd.readouterr().out) == (code, "")


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, ""),
        (KeyboardInterrupt(), 130, ""),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "wazuh-clusterd: [Errno 28] No space left on device\n"),
    ],
)
def test_stock_program_shows_no_traceback(
    ending: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise ending

    monkeypatch.setattr("tools.wazuh_clusterd.load", load)
    monkeypatch.setattr("tools.wazuh_clusterd.end_quietly", lambda: None)
    monkeypatch.setattr(sys, "argv", ["wazuh-clusterd", "-V"])
    with pytest.raises(SystemExit) as ended:
        wazuh_clusterd.main()
    assert (ended.value.code, capsys.readouterr().err) == (code, said)


def test_relative_root_in_a_directory_that_is_gone_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    def getcwd() -> str:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", getcwd)
    assert at_once.understood(["--root", "x", "status"], {}) is None
    done = CliRunner().invoke(cluster, ["--root", "x", "status"])
    assert "Error: --root x is relative, and the working directory is gone" in done.stderr


def test_tables_on_a_narrow_terminal_have_columns_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, width in (("40", 80), ("200", 200)):
        monkeypatch.setenv("COLUMNS", columns)
        out = io.StringIO()
        drawing.show(drawing.Styled("x" * 300), out)
        assert max(map(len, out.getvalue().splitlines())) == width


def test_character_that_a_terminal_does_not_have_is_written_as_an_escape() -> None:
    program = (
        "import click; from tools.console import PlainConsole; from tools.show import bear_any_text; bear_any_text(); "
        "click.echo('w\\u00f6rker \\u65e5'); PlainConsole(width=40).print('\\u2501\\u2501 \\u65e5\\u2026')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"w\xf6rker \\u65e5\n== \\u65e5~\n"
