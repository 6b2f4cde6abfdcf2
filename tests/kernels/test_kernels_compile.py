"""All kernels, every variant, compile ahead of time without a GPU to what the design asks for.

The compiler runs in a process of its own, because Triton's interpreter, once chosen, stays chosen.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CAPABILITIES = (80, 86, 89, 90, 100, 120)
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
)

# Measured: at most 40 over all variants and capabilities; 12 blocks of 128 threads a multiprocessor at 40.
REGISTER_BOUND = 48

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
FLOAT8_CAPABILITIES = (89, 90, 100, 120)
QUANTISE_COVERING = ("main", "heads", "heads-apart", "S2", "S2-heads", "fp32", "widest", "odd")
# Nine blocks of 64 threads, nine tokens of DiT-XL/2's MLP. Measured: 96 in bfloat16.
QUANTISE_REGISTER_BOUND = 112

# Measured on 9.0: 40 to 74 to normalise, 64 to 79 for statistics; 6 blocks of 128 threads at 80.
GROUP_NORM_REGISTER_BOUND = 96

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


Rows = dict[tuple[str, int], dict[str, Any]]  # by variant and capability


def compile_report(cache: Path, *arguments: str, module: str = "kernel_resources") -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", f"bench.gpu.{module}", "--json", *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The main variant for every capability, the covering set for 9.0."""
    pytest.importorskip("triton", minversion="3.3", reason="ahead-of-time compilation as written needs it")
    others = [str(capability) for capability in CAPABILITIES if capability != 90]
    found = compile_report(tmp_path_factory.mktemp("triton"), "--cc", "90", "--main-cc", *others)
    return {(row["variant"], row["capability"]): row for row in found}


def check_resources(row: dict[str, Any]) -> None:
    assert row["cubin_bytes"] > 0
    assert row["stack_bytes"] == 0, "registers spilled"
    assert row["registers"] <= REGISTER_BOUND


def check_accesses(row: dict[str, Any]) -> None:
    """Every tensor is read and written once, four elements (one Philox block) at a time, with no exchange."""
    wide, out = "v4.b32", "v4.b32" if row["dtype"] == "fp32" else "v2.b32"
    accesses = row["accesses"]
    given_noise = row["noise"] == 1
    sigma = row["learned_variance"] and (row["guided"] or row["noise"] != 0)  # else the load is dropped
    want = {f"{op}.global.{width}": 0 for op in ("ld", "st") for width in ("v2.b32", "v4.b32")}
    want[f"ld.global.{wide}"] += 1 + row["guided"] + given_noise
    read = 1 + row["cfg"] + sigma
    if row["patch"]:  # four pixels in a row lie in two patches, the channels of each side by side
        want["ld.global.b16"] = 4 * read
    else:
        want[f"ld.global.{out}"] += read
    want[f"st.global.{wide}"] += 1
    want[f"st.global.{out}"] += row["input_halves"]
    assert {name: accesses.get(name, 0) for name in want} == want
    assert set(accesses) <= {*want, "ld.global.b32", "ld.global.b64"}, "an access of one element"
    assert accesses["ld.global.b32"] <= 10, "more than the coefficients is read one by one"
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


@pytest.mark.slow
def test_every_variant(tmp_path: Path) -> None:
    pytest.importorskip("triton", minversion="3.3", reason="ahead-of-time compilation as written needs it")
    rows = compile_report(tmp_path, "--variants", "all", "--cc", "90")
    assert len(rows) == 48
    for row in rows:
        check_resources(row)
        check_accesses(row)


@pytest.fixture(scope="module")
def adaln_rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The main variant for every capability, the covering set for 9.0."""
    pytest.importorskip("triton", minversion="3.3", reason="ahead-of-time compilation as written needs it")
    others = [str(capability) for capability in CAPABILITIES if capability != 90]
    folder = tmp_path_factory.mktemp("triton")
    found = compile_report(folder, "--cc", "90", "--main-cc", *others, module="adaln_resources")
    return {(row["variant"], row["capability"]): row for row in found}


@pytest.fixture(scope="module")
def quantise_rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The main variant for every capability that has 8-bit numbers, the covering set for 9.0."""
    pytest.importorskip("triton", minversion="3.3", reason="ahead-of-time compilation as written needs it")
    others = [str(capability) for capability in FLOAT8_CAPABILITIES if capability != 90]
    folder = tmp_path_factory.mktemp("triton")
    found = compile_report(folder, "--cc", "90", "--main-cc", *others, module="quantise_resources")
    return {(row["variant"], row["capability"]): row for row in found}


def check_tokens(row: dict[str, Any], register_bound: int, loads: int, rows: int) -> None:
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


def check_adaln(row: dict[str, Any]) -> None:
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
    [*((variant, 90) for variant in QUANTISE_COVERING), ("main", 89), ("main", 100), ("main", 120)],
)
def test_quantise_variant(variant: str, capability: int, quantise_rows: Rows) -> None:
    row = quantise_rows[variant, capability]
    check_tokens(row, QUANTISE_REGISTER_BOUND, loads=1, rows=0)
    assert row["shared_bytes"] <= 128, "tokens are exchanged through shared memory"


@pytest.fixture(scope="module")
def group_norm_rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The main variants for every capability, the covering set for 9.0."""
    pytest.importorskip("triton", minversion="3.3", reason="ahead-of-time compilation as written needs it")
    others = [str(capability) for capability in CAPABILITIES if capability != 90]
    folder = tmp_path_factory.mktemp("triton")
    found = compile_report(folder, "--cc", "90", "--main-cc", *others, module="group_norm_resources")
    return {(row["variant"], row["capability"]): row for row in found}


def check_group_norm(row: dict[str, Any]) -> None:
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


@pytest.fixture(scope="module")
def kmeans_rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """Every kernel for 9.0, the assignment, which needs the most registers, for every capability."""
    pytest.importorskip("triton", minversion="3.3", reason="ahead-of-time compilation as written needs it")
    others = [str(capability) for capability in CAPABILITIES if capability != 90]
    folder = tmp_path_factory.mktemp("triton")
    found = compile_report(folder, "--cc", "90", "--assign-cc", *others, module="kmeans_resources")
    return {(row["variant"], row["capability"]): row for row in found}


def check_kmeans(row: dict[str, Any], spilled: int = 0) -> None:
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
    ("clusters", "features"),
    [(10, ["--dtype", "fp32"]), (256, ["--dtype", "fp32"]), (50, ["--dtype", "fp16"]), (50, ["--odd"])],
    ids=lambda one: " ".join(one) if isinstance(one, list) else str(one),
)
def test_every_kmeans_kernel(clusters: int, features: list[str], tmp_path: Path) -> None:
    pytest.importorskip("triton", minversion="3.3", reason="ahead-of-time compilation as written needs it")
    rows = compile_report(tmp_path, "--clusters", str(clusters), *features, module="kmeans_resources")
    assert len(rows) == len(KMEANS) * len(CAPABILITIES)
    for row in rows:
        # Measured: two words on 10.0; up to 112 bytes where D is no multiple of 16, as it is of latents.
        check_kmeans(row, spilled=128 if "--odd" in features else 8)
