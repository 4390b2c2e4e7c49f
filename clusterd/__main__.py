"""`python -m clusterd`: the node of CLUSTERD_ROOT (default /var/ossec) in the foreground, for containers and
debuggers."""

import os
import sys

from clusterd.config.loading import load
from clusterd.exits import ExitCode
from clusterd.rundir import DEFAULT_ROOT
from clusterd.supervisor.run import supervise


def main() -> int:
    """Returns the exit code; prints all mistakes in the configuration to stderr."""
    if len(sys.argv) > 1:
        print("python -m clusterd takes no arguments; set CLUSTERD_ROOT, or use the clusterd command", file=sys.stderr)
        return ExitCode.USAGE
    loaded = load(os.environ.get("CLUSTERD_ROOT", DEFAULT_ROOT))
    if loaded.settings is None:
        for problem in loaded.problems:
            print(f"clusterd: {problem}", file=sys.stderr)
        return ExitCode.BAD_CONFIGURATION
    return supervise(loaded.settings, foreground=True)


if __name__ == "__main__":
    sys.exit(main())
