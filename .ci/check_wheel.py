"""Check a wheel against the source tree: nothing missing, nothing foreign.

Usage: python .ci/check_wheel.py dist/mgd3_fast-*.whl
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

PACKAGES = {
    "mgd3_fast": Path("mgd3_fast"),
    "mgd3_engine": Path("engine/mgd3_engine"),
    "mgd3_kernels": Path("kernels/mgd3_kernels"),
}


def expected_files() -> set[str]:
    """Every file of the three packages in the source tree, by its path inside a wheel."""
    return {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def main(wheel: str) -> int:
    """Print what is missing or foreign; return 0 when there is neither."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        size_mib = sum(entry.compress_size for entry in archive.infolist()) / 2**20
    expected = expected_files()
    for name in sorted(expected - packed):
        print(f"missing from the wheel: {name}")
    for name in sorted(packed - expected):
        print(f"foreign in the wheel: {name}")
    print(f"{wheel}: {len(packed)} files, {size_mib:.1f} MiB")
    return int(expected != packed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
