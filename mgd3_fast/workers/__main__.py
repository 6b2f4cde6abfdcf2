"""A worker, as `local` starts it: `python -m mgd3_fast.workers DESCRIPTOR PARENT`."""

import sys
from multiprocessing.connection import Connection

from mgd3_fast.workers.serving import Server, end_with

if __name__ == "__main__":
    end_with(int(sys.argv[2]))
    Server(Connection(int(sys.argv[1]))).run()
