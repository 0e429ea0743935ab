"""``python -m nbdream`` is the command ``nbdream``."""

from __future__ import annotations

import sys

from nbdream.cli import main

if __name__ == "__main__":
    sys.exit(main())
