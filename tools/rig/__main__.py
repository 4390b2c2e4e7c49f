"""`python -m tools.rig`."""

import sys

from tools.rig.cli import main

if __name__ == "__main__":
    sys.exit(main())
