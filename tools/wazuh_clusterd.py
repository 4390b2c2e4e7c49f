"""`wazuh-clusterd`: the stock daemon's command line (wire.md 7.5), for the launcher of `clusterd adopt` and scripts
written for it.

argparse, because `-c FILE` and single-dash flags must be read as the stock program reads them. The module's name is
what process lists show of the node: programs that look for the stock daemon there find `wazuh_clusterd`.
"""

import argparse
import os
import sys
from pathlib import Path

from clusterd.config.loading import load
from clusterd.exits import ExitCode
from clusterd.rundir import DEFAULT_ROOT, root_problem
from tools.show import bear_any_text, end_quietly, in_short

HIDDEN = ("--performance_test", "--concurrency_test", "--string", "--file")
STOCK_FAILURE = 1
PATIENCE_S = 20.0
"""How long the caller waits until the node serves. The stock daemon returns at once. The program that starts the whole
manager (systemd, with about 45 s for all of it) must not fail because a busy machine takes longer."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wazuh-clusterd", description="The node's cluster daemon, with the stock flags."
    )
    parser.add_argument("-f", action="store_true", dest="foreground", help="run in the foreground")
    parser.add_argument("-d", action="count", default=0, dest="debug", help="debug; twice: more")
    parser.add_argument("-V", action="store_true", dest="version", help="print the version and exit")
    parser.add_argument("-r", action="store_true", dest="stay_root", help="stay root")
    parser.add_argument("-t", action="store_true", dest="test", help="check the configuration and exit")
    parser.add_argument("-c", dest="conf", metavar="FILE", help="another ossec.conf")
    parser.add_argument("--ssl", action="store_true", help="TLS below the cluster's own encryption")
    for option in HIDDEN:
        parser.add_argument(option, dest=option.strip("-"), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Runs the command as its entry point. Exit codes as the stock daemon: 0 good or disabled, 1 otherwise. A failure
    of the system is one line, as with every command; a reader that is gone is none."""
    bear_any_text()
    try:
        _run()
    except BrokenPipeError:
        end_quietly()
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except OSError as failure:
        end_quietly()
        _end(in_short(failure))


def _run() -> None:
    options = _parser().parse_args()
    root = os.path.abspath(os.environ.get("CLUSTERD_ROOT", DEFAULT_ROOT))
    for option in HIDDEN:
        if getattr(options, option.strip("-")) is not None:
            _end(
                f"{option} is a test mode of the stock daemon; `make bench` and `python -m tools.rig` do this here", 64
            )
    problem = root_problem(root)
    if problem is not None:
        _end(problem)
    loaded = load(root, conf=options.conf)
    if options.version:
        version = loaded.settings.clusterd.version if loaded.settings is not None else "4.14.1"
        print(f"clusterd, compatible with Wazuh v{version}", flush=True)
        sys.exit(0)
    if loaded.settings is None:
        for mistake in loaded.problems:
            print(f"wazuh-clusterd: {mistake}", file=sys.stderr)
        sys.exit(STOCK_FAILURE)
    if options.test:
        sys.exit(0)
    if loaded.settings.cluster.disabled:
        sys.exit(0)  # without a word, as stock (wire.md 7.2): most managers have no cluster, and start all the same
    from tools import starting  # the whole daemon: neither for -t nor for a disabled cluster

    if options.foreground:
        print(f"Starting cluster in foreground (pid: {os.getpid()})", flush=True)
    started = starting.start(
        root,
        foreground=options.foreground,
        debug=options.debug,
        log_format="text",
        timeout_s=PATIENCE_S,
        say=lambda text: print(f"wazuh-clusterd: {text}", file=sys.stderr),
        conf=None if options.conf is None else str(Path(options.conf).absolute()),
        stay_root=options.stay_root,
        tls=options.ssl,
        leave_late=True,
    )
    if not started.ok:
        _end(started.reason)
    if started.reason and not options.foreground:
        print(f"wazuh-clusterd: {started.reason}", file=sys.stderr)


def _end(text: str, code: int = STOCK_FAILURE) -> None:
    print(f"wazuh-clusterd: {text}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
