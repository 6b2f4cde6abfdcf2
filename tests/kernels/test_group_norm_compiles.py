"""GroupNorm, every variant, compile ahead of time to what the design asks for."""

from __future__ import annotations

import pytest

from tests.fakes.compiling import CAPABILITIES, Row, covering_report

# Measured on 9.0: 40 to 74 to normalise, 64 to 79 for statistics; 6 blocks of 128 threads at 80.
GROUP_NORM_REGISTER_BOUND = 96

Rows = dict[tuple[str, int], Row]  # by variant and capability


@pytest.fixture(scope="module")
def group_norm_rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The main variants for every capability, the covering set for 9.0."""
    return covering_report(tmp_path_factory.mktemp("triton"), "group_norm_resources")


def check_group_norm(row: Row) -> None:
    """A tile is read and written once, 16 bytes at a time; narrow accesses are of channels and sums."""
    assert row["stack_bytes"] == 0, "registers spilled"
    assert row["registers"] <= GROUP_NORM_REGISTER_BOUND
    assert row["shared_bytes"] <= 4096
    pieces = 4 if row["dtype"] == "fp32" else 2  # accesses of a thread's 16 numbers
    stores = pieces * (row["kernel"] == "normalise" or row["residual"])
    if row["channels"] % 16 == 0:
        assert row["accesses"].get("st.global.v4.b32", 0) == stores
        assert row["accesses"]["ld.global.v4.b32"] >= pieces * (1 + row["residual"])


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("variant", ["normalise", "statistics", "statistics-residual"])
def test_main_group_norm_on_every_capability(variant: str, capability: int, group_norm_rows: Rows) -> None:
    check_group_norm(group_norm_rows[variant, capability])


def test_every_group_norm_variant(group_norm_rows: Rows) -> None:
    checked = [row for (_, capability), row in group_norm_rows.items() if capability == 90]
    assert len(checked) == 16
    for row in checked:
        check_group_norm(row)
