"""A stock manager as `clusterd adopt` finds it: a control script, and programs that the script starts and checks by
their pid files."""

import json
import os
import subprocess
import sys
from pathlib import Path

from clusterd.supervisor.privileges import WORKING_DIRECTORIES
from tools.rig.ports import free_port

KEY = "c98b62a9b6169ac5f67dae55ae4a9088"
OTHER = "wazuh-otherd"
CONTROL = r"""#!/bin/sh
# Starts, tests, judges and stops the programs of DAEMONS as the stock wazuh-control does.
DIR={root}
DAEMONS="wazuh-clusterd wazuh-otherd"

living() {{  # pids of a daemon that live
    for file in "$DIR"/var/run/$1-*.pid; do
        [ -f "$file" ] || continue
        pid=$(cat "$file")
        if kill -0 "$pid" 2>/dev/null; then echo "$pid"; else rm -f "$file"; fi
    done
}}

start() {{
    for name in $DAEMONS; do
        "$DIR"/bin/$name -t || {{ echo "$name: Configuration error. Exiting"; exit 1; }}
    done
    for name in $DAEMONS; do
        if [ -n "$(living $name)" ]; then echo "$name already running..."; continue; fi
        "$DIR"/bin/$name $DEBUG_CLI || {{ echo "$name did not start"; exit 1; }}
        tries=0
        while [ -z "$(living $name)" ]; do
            tries=$((tries + 1))
            [ $tries -le 600 ] || {{ echo "$name did not start correctly."; exit 1; }}
            sleep 0.1
        done
        echo "Started $name..."
    done
    echo "Completed."
}}

stop() {{
    for name in $DAEMONS; do
        pids=$(living $name)
        if [ -z "$pids" ]; then echo "$name not running..."; continue; fi
        echo "Killing $name..."
        kill $pids
        while [ -n "$(living $name)" ]; do sleep 0.1; done
    done
    echo "stopped"
}}

case "$1" in
    start) start ;;
    stop) stop ;;
    restart) stop; start ;;
    status)
        code=0
        for name in $DAEMONS; do
            if [ -n "$(living $name)" ]; then echo "$name is running..."; else echo "$name not running..."; code=1; fi
        done
        exit $code ;;
    info) printf 'WAZUH_VERSION="%s"\nWAZUH_REVISION="rc1"\nWAZUH_TYPE="server"\n' '{version}' ;;
esac
"""
DAEMON = """#!{python}
# A stock daemon: a pid file for as long as it lives.
import os, pathlib, signal, sys
name, root = {name!r}, {root!r}
if "-t" in sys.argv:
    sys.exit(0)
print("Starting", name, flush=True)
if os.fork():
    os._exit(0)
os.setsid()
null = os.open(os.devnull, os.O_RDWR)
for fd in (0, 1, 2):
    os.dup2(null, fd)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
file = pathlib.Path(root, "var/run", f"{{name}}-{{os.getpid()}}.pid")
beside = pathlib.Path(root, "var/run", f".{{name}}-{{os.getpid()}}")  # nobody may read it half written
beside.write_text(f"{{os.getpid()}}\\n")
beside.rename(file)
signal.sigwait([signal.SIGTERM])
file.unlink()
"""
CONF = """<ossec_config><cluster><name>x</name><node_name>m</node_name><node_type>{kind}</node_type>
<key>{key}</key><port>{port}</port><bind_addr>127.0.0.1</bind_addr><nodes><node>127.0.0.1</node></nodes><disabled>{disabled}</disabled></cluster></ossec_config>
"""
LONG_AGO_NS = 1_600_000_000_123_456_789

Facts = dict[str, tuple[bytes, int, int, int, int, int]]


class Manager:
    """Creates its files; nothing runs at first. Nodes run as the user of the test."""

    def __init__(self, root: Path, *, kind: str = "master", version: str = "v4.14.1", disabled: str = "no") -> None:
        self.root = root
        self.bin = root / "bin"
        self.port = free_port()
        for relative in ("bin", "etc/shared", "queue/db", *WORKING_DIRECTORIES):
            (root / relative).mkdir(parents=True, exist_ok=True)
        root.chmod(0o755)
        self.bin.chmod(0o750)
        self.configure(kind=kind, disabled=disabled)
        (root / "etc/client.keys").touch()
        own = {
            "owner": "root",
            "limits": {"disk_reserve_bytes": 1024, "disk_reserve_share": 0},
            "monitor": {"enabled": False},
        }
        (root / "etc/cluster.json").write_text(json.dumps({"clusterd": own}))
        self.put("wazuh-control", CONTROL.format(root=root, version=version))
        self.install("1")

    def configure(self, *, kind: str = "master", disabled: str = "no", key: str = KEY) -> None:
        text = CONF.format(kind=kind, key=key, port=self.port, disabled=disabled)
        (self.root / "etc/ossec.conf").write_text(text)

    def install(self, build: str) -> None:
        """Acts like a package upgrade: new files, renamed over the present ones."""
        for name in ("wazuh-clusterd", OTHER):
            text = DAEMON.format(python=sys.executable, name=name, root=str(self.root))
            self.put(name, f"{text}# build {build}\n")
        self.put("cluster_control", f"#!/bin/sh\necho stock cluster_control, build {build}\n")
        self.put("wazuh-db", "#!/bin/sh\n")

    def put(self, name: str, text: str) -> None:
        beside = self.bin / f"{name}.package-new"
        beside.write_text(text)
        beside.chmod(0o750)
        os.utime(beside, ns=(LONG_AGO_NS, LONG_AGO_NS))
        beside.rename(self.bin / name)

    def facts(self) -> Facts:
        """Returns content, mode, owner, group, time and names of everything in `bin`."""
        found = {}
        for path in sorted(self.bin.iterdir()):
            it = path.lstat()
            found[path.name] = (path.read_bytes(), it.st_mode, it.st_uid, it.st_gid, it.st_mtime_ns, it.st_nlink)
        return found

    def control(self, word: str) -> "subprocess.CompletedProcess[str]":
        """Runs `wazuh-control WORD`. Its output goes through a file, because daemons keep pipes open."""
        out = self.root / "control.out"
        with out.open("w") as file:
            code = subprocess.run([self.bin / "wazuh-control", word], stdout=file, stderr=file, timeout=600).returncode
        return subprocess.CompletedProcess([word], code, out.read_text(), "")

    def pids(self, name: str) -> list[int]:
        return sorted(int(path.read_text()) for path in (self.root / "var/run").glob(f"{name}-*.pid"))
