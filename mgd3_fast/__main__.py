"""The `mgd3-fast` command, also as `python -m mgd3_fast`, from its first import on."""

import sys


def run() -> int:
    """Run the command line of the process; Ctrl-C is answered in one line while it is being imported, too.

    Returns:
        The exit status; see `mgd3_fast.cli`.
    """
    try:
        from mgd3_fast.cli import main

        return main()
    except KeyboardInterrupt:
        print("mgd3-fast: interrupted", file=sys.stderr)
        return 130
    finally:
        # Python remembers an interruption that ended a text run by exec(), as those by which dataclasses are
        # made, and at the end kills a process started by -m as if nobody had caught it. The next text makes
        # it forget.
        exec("")


if __name__ == "__main__":
    sys.exit(run())
