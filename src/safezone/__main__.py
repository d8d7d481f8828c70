"""``python -m safezone`` is ``safezone``."""

import sys

from safezone.cli import main

if __name__ == "__main__":
    sys.exit(main())
