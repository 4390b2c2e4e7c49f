"""`python -m tools.rig`."""

import sys

from tools.rig.cli import main
from tools.rig.guard import end_in_order

if __name__ == "__main__":
    end_in_order()
    sys.exit(main())
