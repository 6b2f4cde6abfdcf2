"""The kernels of K-means compile ahead of time to what the design asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.compiling import CAPABILITIES, Row, compile_report, covering_report

# Of the kernels that read features: at least so many 16-byte copies or loads, and at most so many narrower
# ones, which are of a mean, a few candidates, or single numbers. The others read labels and sums.
KMEANS_READS = {
    "center": (4, 1),
    "trial": (8, 6),
    "assign": (18, 6),  # a mean for each of four stages
    "distance": (9, 6),
    "update": (10, 15),
}
KMEANS = (*KMEANS_READS, "choose", "count", "distance-where-empty", "refill", "group", "settle", "inertia")
SHARED_BOUND = 99 * 1024  # of a block, on 8.6, 8.9 and 12.0

Rows = dict[tuple[str, int], Row]  # by variant and capability


@pytest.fixture(scope="module")
def kmeans_rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Every kernel for 9.0, the assignment, which needs the most registers, for every capability."""
    return covering_report(tmp_path_factory.mktemp("triton"), "kmeans_resources", others="--assign-cc")


def check_kmeans(row: Row, spilled: int = 0) -> None:
    assert row["stack_bytes"] <= spilled, "registers spilled"
    assert row["shared_bytes"] <= SHARED_BOUND
    assert row["registers"] * 32 * row["num_warps"] <= 65536, "more than a multiprocessor has"


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_assignment_on_every_capability(capability: int, kmeans_rows: Rows) -> None:
    # Measured: two words on 12.0, for tiles that are 17% faster on 9.0 (H200).
    check_kmeans(kmeans_rows["assign", capability], spilled=8 if capability == 120 else 0)


@pytest.mark.parametrize("kernel", KMEANS)
def test_kmeans_kernel(kernel: str, kmeans_rows: Rows) -> None:
    row = kmeans_rows[kernel, 90]
    check_kmeans(row)
    if kernel in KMEANS_READS:
        reads = row["async_copies"] | {
            name: count for name, count in row["accesses"].items() if name.startswith("ld.")
        }
        wide = sum(reads.pop(name, 0) for name in ("0x10", "ld.global.v4.b32"))
        reads.pop("ld.global.b64")  # offsets
        least_wide, most_narrow = KMEANS_READS[kernel]
        assert wide >= least_wide
        assert sum(reads.values()) <= most_narrow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clusters", "features", "capability"),
    [
        pytest.param(256, ["--dtype", "fp32"], 120, id="256-fp32"),  # the least shared memory
        pytest.param(50, ["--odd"], 80, id="odd"),
    ],
)
def test_every_kmeans_kernel(clusters: int, features: list[str], capability: int, tmp_path: Path) -> None:
    options = ["--clusters", str(clusters), *features, "--cc", str(capability)]
    rows = compile_report(tmp_path, "kmeans_resources", *options)
    assert len(rows) == len(KMEANS)
    for row in rows:
        # Measured: two words; up to 112 bytes where D is no multiple of 16, as it is of latents.
        check_kmeans(row, spilled=128 if "--odd" in features else 8)
