"""A Python of its own for a piece of code: in this one Triton's interpreter may have been chosen."""

from __future__ import annotations

import os
import subprocess
import sys


def run_without_triton(code: str) -> None:
    """Run code, which must succeed, and see that it did not import Triton."""
    seen = 'assert not any(name.partition(".")[0] == "triton" for name in sys.modules), "triton was imported"'
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    whole = f"import sys\n{code}\n{seen}\n"
    subprocess.run([sys.executable, "-c", whole], check=True, env=environment)
