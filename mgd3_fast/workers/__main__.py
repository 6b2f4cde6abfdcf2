"""A worker, as `local` starts it: `python -m mgd3_fast.workers DESCRIPTOR`."""

import sys
from multiprocessing.connection import Connection

from mgd3_fast.workers.serving import Server

if __name__ == "__main__":
    Server(Connection(int(sys.argv[1]))).run()
