"""`cluster_control`, identical in output to the stock tool (dapi.md 7). Uses argparse, because click cannot parse
options with any number of values, or with an optional value."""

import argparse
import os
import sys
from collections.abc import Sequence

from clusterd.dapi.files.daemons import daemon_states
from clusterd.errors import ClusterError, ConfigurationError, with_place
from clusterd.gate import closed_to_us
from clusterd.pidfile import pid_file_of, running_pid
from clusterd.printable import printable, printable_lines
from clusterd.rundir import DEFAULT_ROOT
from clusterd.status.control import NotAnswering
from tools import questions
from tools.cluster_tables import agents_table, health_long, health_summary, nodes_table
from tools.show import OUTPUT, bear_any_text, end_quietly, flush

NOT_RUNNING = "Cluster is not running."
MORE = "more"
CONFIGURATION = ("etc/ossec.conf", "etc/cluster.json")
USAGE = """
Usage:
\t-l  | --list-nodes                               List the nodes of the cluster
\t-l  -fn <node> [<node> ...]                      List certain nodes
\t-a  | --list-agents                              List the agents of the cluster
\t-a  -fs <status> [<status> ...]                  List the agents in certain states
\t-a  -fn <node> [<node> ...]                      List the agents that report to certain nodes
\t-i  | --health [more]                            Show the health of the cluster
\t-i [more] -fn <node> [<node> ...]                Show the health of certain nodes

Others:
\t-d  | --debug                                    Log more, and show the traceback of an error
\t-u  | --usage                                    Show this text
\t-h  | --help                                     Show the options
\t--exit-status                                    Exit with 1 when something goes wrong while it is asked
\tCLUSTERD_ROOT                                    Environment: the node's directory (/var/ossec)
"""


def parser() -> argparse.ArgumentParser:
    """Adds the options of dapi.md 7.1, and one of our own."""
    made = argparse.ArgumentParser("cluster_control", add_help=True)
    action = made.add_mutually_exclusive_group()
    action.add_argument("-a", "--list-agents", action="store_true", help="list agents")
    action.add_argument("-l", "--list-nodes", action="store_true", help="list nodes")
    action.add_argument(
        "-i",
        "--health",
        nargs="?",
        const="less",
        metavar=MORE,
        help="show the health of the cluster; `more`: in detail",
    )
    action.add_argument("-u", "--usage", action="store_true", help="show examples")
    made.add_argument("-fn", "--filter-node", nargs="*", metavar="NODE", help="only these nodes")
    made.add_argument("-fs", "--filter-agent-status", nargs="*", metavar="STATUS", help="only agents in these states")
    made.add_argument("-d", "--debug", action="store_true", help="log more, and show the traceback of an error")
    made.add_argument("--exit-status", action="store_true", help="exit with 1 when something goes wrong")
    return made


def run(root: str, arguments: Sequence[str]) -> int:
    """Runs the tool; returns the exit code (dapi.md 7.2)."""
    options = parser().parse_args(arguments)
    if options.usage:
        print(USAGE)
        return 0
    try:
        is_running = _is_running(root)
    except (ConfigurationError, OSError) as failure:
        if options.debug:
            raise
        _say(printable_lines(closed_to_us(root) or _text_of(failure)))
        return 1
    if not is_running:
        _say(NOT_RUNNING)
        return 1
    if options.filter_agent_status and not options.list_agents:
        _say("Wrong arguments.")
        print(USAGE)
        return 1
    if not (options.list_agents or options.list_nodes or options.health):
        parser().print_help()
        return 0
    try:
        answer = _answer(root, options)
    except KeyboardInterrupt:
        return 0
    except Exception as failure:
        if options.debug:
            raise
        _say(printable_lines(_text_of(failure)))
        return 1 if options.exit_status else 0
    print(answer)
    return 0


def _answer(root: str, options: argparse.Namespace) -> str:
    names: list[str] | None = options.filter_node
    if options.list_nodes:
        return nodes_table(questions.nodes(root, names))
    if options.list_agents:
        return agents_table(questions.agents(root, options.filter_agent_status or [], names or []))
    cluster, answer = questions.cluster_name(root), questions.health(root, names)
    return (health_long if options.health.lower() == MORE else health_summary)(cluster, answer)


def _say(text: str) -> None:
    print(f"ERROR: {text}", file=sys.stderr)


def _is_running(root: str) -> bool:
    """Raises ConfigurationError for a configuration with mistakes."""
    if not _has_started_with_its_files(root):
        from clusterd.config.loading import load  # takes longer than everything else here

        loaded = load(root)
        if loaded.settings is None:
            raise ConfigurationError("\n".join(str(problem) for problem in loaded.problems))
        if loaded.settings.cluster.disabled:
            return False
    return daemon_states(root)["wazuh-clusterd"] == "running"


def _has_started_with_its_files(root: str) -> bool:
    """Returns True if a node of ours runs that has read the configuration as it is: then it has no mistakes."""
    pid = running_pid(root)
    if pid is None:
        return False
    conf, own = (os.path.join(root, path) for path in CONFIGURATION)
    try:
        began = os.stat(pid_file_of(root, pid)).st_mtime_ns
        last = max(os.stat(path).st_ctime_ns for path in (conf, own) if path == conf or os.path.exists(path))
    except OSError:
        return False
    return last < began and os.access(conf, os.R_OK)


def _text_of(failure: Exception) -> str:
    if isinstance(failure, ClusterError):
        return printable(str(failure))
    if isinstance(failure, ConfigurationError):
        return str(failure)
    if isinstance(failure, NotAnswering):
        return f"{ClusterError(3012)}: {failure}"
    return f"{type(failure).__name__}: {failure}"


def main() -> None:
    """Runs `cluster_control` as its entry point."""
    bear_any_text()
    try:
        code = run(os.path.abspath(os.environ.get("CLUSTERD_ROOT", DEFAULT_ROOT)), sys.argv[1:])
        flush()
    except KeyboardInterrupt:
        sys.exit(0)
    except BrokenPipeError:
        end_quietly()
        sys.exit(0)
    except OSError as failure:
        _say(with_place(failure, OUTPUT))
        end_quietly()
        sys.exit(1)
    sys.exit(code)


if __name__ == "__main__":
    main()
