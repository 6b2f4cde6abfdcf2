"""Lets `python -m mgd3_fast` stand for the `mgd3-fast` command."""

import sys

from mgd3_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
