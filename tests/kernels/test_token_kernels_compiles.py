"""Norms of tokens and 8-bit rows compile ahead of time, every variant, to what the design asks for."""

from __future__ import annotations

import pytest

from tests.fakes.compiling import CAPABILITIES, FLOAT8_CAPABILITIES, Row, covering_report

ADALN_COVERING = (
    "main",
    "main-first-norm",
    "fp32",
    "fp16",
    "S2",
    "demo",
    "one-token-fills-a-warp",
    "widest",
    "widest-fp32",
    "odd",
    "float8",
    "float8-first-norm",
    "float8-S2",
    "float8-widest",
    "float8-odd",
)
# Three blocks of 256 threads a multiprocessor, twelve tokens of DiT-XL/2. Measured: at most 76 to
# bfloat16 and 80 to 8 bits. Where nothing is aligned a thread moves 32 numbers one by one: at most 160.
ADALN_REGISTER_BOUND, ODD_REGISTER_BOUND = 80, 168
ADALN_WIDEST_FP32_REGISTER_BOUND = 96
QUANTISE_COVERING = ("main", "heads", "heads-apart", "S2", "S2-heads", "fp32", "widest", "odd")
# Nine blocks of 64 threads, nine tokens of DiT-XL/2's MLP. Measured: 96 in bfloat16.
QUANTISE_REGISTER_BOUND = 112

Rows = dict[tuple[str, int], Row]  # by variant and capability


@pytest.fixture(scope="module")
def adaln_rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The main variant for every capability, the covering set for 9.0."""
    return covering_report(tmp_path_factory.mktemp("triton"), "adaln_resources")


@pytest.fixture(scope="module")
def quantise_rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The main variant for every capability that has 8-bit numbers, the covering set for 9.0."""
    return covering_report(tmp_path_factory.mktemp("triton"), "quantise_resources", FLOAT8_CAPABILITIES)


def check_tokens(row: Row, register_bound: int, loads: int, rows: int) -> None:
    """No spill; tokens are read and written once, 16 bytes of half precision at a time, 8 in 8 bits.

    Args:
        row: What was found.
        register_bound: Most registers.
        loads: Tensors of tokens that are read.
        rows: Tensors of a row's modulation that are read.
    """
    assert row["stack_bytes"] == 0, "registers spilled"
    assert row["registers"] <= register_bound
    if "odd" in row["variant"]:
        return
    per_access = 4 if row["dtype"] == "fp32" else 8
    lanes = (row["BLOCK"] + row["TAIL"]) * row["TOKENS"]
    pieces = lanes // (32 * row["num_warps"] * per_access)
    accesses, float8 = dict(row["accesses"]), row.get("float8", True)
    wide = accesses.pop("ld.global.v4.b32")
    assert wide >= loads * pieces
    narrow = accesses.pop("ld.global.b32", 0)
    assert (wide > loads * pieces or narrow > 0) == (rows > 0)
    want = {"st.global.v4.b32": pieces * (bool(row.get("residual")) + (not float8))}
    if float8:
        eights = pieces * per_access // 8
        want |= {"st.global.b32": 1, "st.global.v2.b32": eights}
    assert accesses == {name: count for name, count in want.items() if count}


def check_adaln(row: Row) -> None:
    bounds = {"odd": ODD_REGISTER_BOUND, "float8-odd": ODD_REGISTER_BOUND}
    bounds |= {"widest-fp32": ADALN_WIDEST_FP32_REGISTER_BOUND}
    bound = bounds.get(row["variant"], ADALN_REGISTER_BOUND)
    check_tokens(row, bound, loads=1 + row["residual"], rows=2 + row["residual"])
    assert row["shared_bytes"] <= 1024, "tokens are exchanged through shared memory"


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_main_adaln_on_every_capability(capability: int, adaln_rows: Rows) -> None:
    check_adaln(adaln_rows["main", capability])


@pytest.mark.parametrize("capability", FLOAT8_CAPABILITIES)
def test_float8_adaln_on_every_capability(capability: int, adaln_rows: Rows) -> None:
    check_adaln(adaln_rows["float8", capability])


@pytest.mark.parametrize("variant", ADALN_COVERING)
def test_adaln_variant(variant: str, adaln_rows: Rows) -> None:
    check_adaln(adaln_rows[variant, 90])


@pytest.mark.parametrize(
    ("variant", "capability"),
    [*((variant, 90) for variant in QUANTISE_COVERING), ("main", 120)],
)
def test_quantise_variant(variant: str, capability: int, quantise_rows: Rows) -> None:
    row = quantise_rows[variant, capability]
    check_tokens(row, QUANTISE_REGISTER_BOUND, loads=1, rows=0)
    assert row["shared_bytes"] <= 128, "tokens are exchanged through shared memory"
