"""What an export is asked to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import check_options
from mgd3_fast.config.documented import documented
from mgd3_fast.config.fields import CACHE, heads_option, option, path
from mgd3_fast.errors import UserError

SUFFIXES = {"onnx": ".onnx", "tensorrt": ".engine", "tensorrt-rtx": ".engine"}
EXPORT_PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@documented
@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What `export_network` is asked to do: which network, in which format, for which GPUs."""

    generator: str = option(
        "demo-mnist5k, dit-xl-2-256, dit-xl-2-512, a checkpoint file, a generator folder or a hub id",
        metavar="NAME|PATH|ID",
    )
    generator_heads: int | None = heads_option()
    format: str = option("what is written", default="onnx", choices=tuple(SUFFIXES))
    precision: str = option(
        "number format of the network; auto is fp32 for onnx, bf16 for TensorRT",
        default="auto",
        choices=EXPORT_PRECISIONS,
    )
    rows: str | None = option(
        "with TensorRT, rows of a call: the fewest, the usual and the most, or one number for all three;"
        " classifier-free guidance takes two an image (default: 1 and twice what a batch on a GPU holds)",
        default=None,
        metavar="MIN:OPT:MAX",
    )
    compute_capability: str | None = option(
        "with tensorrt-rtx, the GPUs to build for, such as 8.6,8.9; no GPU is needed here (default: the GPU"
        " of this machine)",
        default=None,
        metavar="X.Y,...",
    )
    out: Path | str | None = path(
        "file to write, ending in .onnx or .engine (default: the cache, where the backends look)",
        default=None,
    )
    cache_dir: Path | str | None = path(
        f"where graphs and engines are kept for later runs {CACHE}",
        default=None,
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.format == "onnx" and self.rows is not None:
            raise UserError(
                f"rows must not be given for onnx, whose graphs take any number, got {self.rows!r}"
            )
        if self.format != "tensorrt-rtx" and self.compute_capability is not None:
            raise UserError(
                f"compute_capability must not be given for {self.format}, only for tensorrt-rtx,"
                f" got {self.compute_capability!r}"
            )
        self.row_range()
        self.capabilities()
        if self.out is not None and Path(self.out).suffix != SUFFIXES[self.format]:
            raise UserError(
                f"out must be a file name ending in {SUFFIXES[self.format]} for {self.format},"
                f" got {str(self.out)!r}"
            )

    def resolved_precision(self) -> str:
        """Return fp32, bf16 or fp16."""
        if self.precision != "auto":
            return self.precision
        return "fp32" if self.format == "onnx" else "bf16"

    def row_range(self) -> tuple[int, int, int] | None:
        """Read `rows`: fewest, best and most, or None where they are not given.

        Raises:
            UserError: If it is not MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, or one number of at least 1.
        """
        if self.rows is None:
            return None
        found = re.fullmatch(r"(\d+):(\d+):(\d+)|(\d+)", self.rows)
        if found is not None:
            least, best, most = (int(found[4] or found[part]) for part in (1, 2, 3))
            if 1 <= least <= best <= most:
                return least, best, most
        raise UserError(
            f"rows must be MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, or one number, got {self.rows!r}"
        )

    def capabilities(self) -> tuple[str, ...]:
        """Read `compute_capability`, such as ("8.6", "8.9"); empty where none is given.

        Raises:
            UserError: If it is not a list like 8.6,8.9.
        """
        if self.compute_capability is None:
            return ()
        named = tuple(part.strip() for part in self.compute_capability.split(","))
        if not all(re.fullmatch(r"\d+\.\d", one) for one in named) or len(set(named)) < len(named):
            raise UserError(
                "compute_capability must be different numbers like 8.6, separated by commas,"
                f" got {self.compute_capability!r}"
            )
        return named
