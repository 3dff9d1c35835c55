"""`python -m prunebench.cli` does what the `prunebench` script does."""

import sys

from prunebench.cli import main

if __name__ == "__main__":
    sys.exit(main())
