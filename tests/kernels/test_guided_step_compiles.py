"""The fused step, every variant, compile ahead of time to what the design asks for."""

from __future__ import annotations

import pytest

from tests.fakes.compiling import CAPABILITIES, Row, covering_report

COVERING = (
    "main",
    "main-unguided",
    "fp32",
    "fp16-strided",
    "odd-size",
    "odd-size-strided",
    "ddim",
    "batch-1",
    "one-pixel",
    "no-cfg-no-input",
    "patches",
    "patches-unguided",
    "patches-odd-size",
    "solver",
    "solver-noise",
    "solver-patches",
)

# Measured: at most 40 over all variants and capabilities, 48 with the solver's history; 12 blocks of 128
# threads a multiprocessor at 40, 10 at 48.
REGISTER_BOUND = 48

Rows = dict[tuple[str, int], Row]  # by variant and capability


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The main variant for every capability, the covering set for 9.0."""
    return covering_report(tmp_path_factory.mktemp("triton"), "kernel_resources")


def check_resources(row: Row) -> None:
    assert row["cubin_bytes"] > 0
    assert row["stack_bytes"] == 0, "registers spilled"
    assert row["registers"] <= REGISTER_BOUND


def check_accesses(row: Row) -> None:
    """Every tensor is read and written once, four elements (one Philox block) at a time, with no exchange."""
    wide, out = "v4.b32", "v4.b32" if row["dtype"] == "fp32" else "v2.b32"
    accesses = row["accesses"]
    given_noise = row["noise"] == 1
    sigma = row["learned_variance"] and (row["guided"] or row["noise"] != 0)  # else the load is dropped
    want = {f"{op}.global.{width}": 0 for op in ("ld", "st") for width in ("v2.b32", "v4.b32")}
    want[f"ld.global.{wide}"] += 1 + row["guided"] + given_noise + row["history"]
    read = 1 + row["cfg"] + sigma
    if row["patch"]:  # four pixels in a row lie in two patches, the channels of each side by side
        want["ld.global.b16"] = 4 * read
    else:
        want[f"ld.global.{out}"] += read
    want[f"st.global.{wide}"] += 1 + row["history"]
    want[f"st.global.{out}"] += row["input_halves"]
    assert {name: accesses.get(name, 0) for name in want} == want
    assert set(accesses) <= {*want, "ld.global.b32", "ld.global.b64"}, "an access of one element"
    assert accesses["ld.global.b32"] <= 10 + row["history"], "more than the coefficients is read one by one"
    assert (row["shared_bytes"], row["barriers"]) == (0, 0)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_main_variant_on_every_capability(capability: int, rows: Rows) -> None:
    row = rows["main", capability]
    check_resources(row)
    check_accesses(row)
    assert row["rounds_to_nearest"] > 0


@pytest.mark.parametrize("variant", COVERING)
def test_variant(variant: str, rows: Rows) -> None:
    row = rows[variant, 90]
    check_resources(row)
    if row["aligned"]:
        check_accesses(row)
