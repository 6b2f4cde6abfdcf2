"""A generator's network, loaded in the wanted number format and written for another runtime."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from mgd3_engine.export import export_onnx, graph_path, identify, require_dit
from mgd3_engine.export.onnx_graph import data_file
from mgd3_engine.tensorrt import RowRange, check_capabilities, engine_path, export_engine, load_flavour
from mgd3_engine.tensorrt.engine_file import description_file
from mgd3_fast.config.export import ExportConfig
from mgd3_fast.devices import dtype_of
from mgd3_fast.errors import UserError
from mgd3_fast.generators import load_generator
from mgd3_fast.progress import SILENT
from mgd3_fast.run.sampler import MOST_ROWS_CUDA, batch_rows
from mgd3_fast.storage.cache import cache_dir_or_default, expanded

if TYPE_CHECKING:
    from mgd3_engine.dit import DiT
    from mgd3_engine.export import NetworkIdentity
    from mgd3_engine.tensorrt import Flavour
    from mgd3_fast.progress import Progress


@dataclass(frozen=True)
class Exported:
    """What an export wrote, or found in the cache.

    Args:
        files: The graph or engine first, then what belongs to it.
        format: onnx, tensorrt or tensorrt-rtx.
        precision: fp32, bf16 or fp16.
        weights: sha256 over the network's weights in that precision.
        rows: Fewest, best and most rows of a call; None where any number will do.
        compute_capabilities: GPUs an engine was built for ahead of time; empty for the one of this machine.
        reused: They were in the cache already.
        seconds: From loading the network to the last file.
    """

    files: tuple[Path, ...]
    format: str
    precision: str
    weights: str
    rows: tuple[int, int, int] | None
    compute_capabilities: tuple[str, ...]
    reused: bool
    seconds: float

    @property
    def bytes(self) -> int:
        """Of all files together."""
        return sum(file.stat().st_size for file in self.files)


def export_network(config: ExportConfig, progress: Progress = SILENT) -> Exported:
    """Write a generator's network as an ONNX graph or a TensorRT engine.

    Args:
        config: Which network, in what format and precision.
        progress: Receives notes.

    Returns:
        The files, and what they hold.

    Raises:
        UserError: The configuration does not fit the generator.
        ValueError: The network is no DiT, a package or a GPU is missing, or the build fails.
        OSError: The file cannot be written.
    """
    flavour = None if config.format == "onnx" else load_flavour(config.format)
    if flavour is not None:
        check_capabilities(flavour, config.capabilities())
    started, precision = time.perf_counter(), config.resolved_precision()
    generator, dtype = load_generator(config.generator, heads=config.generator_heads), dtype_of(precision)
    for note in generator.notes:
        progress.note(note)
    dit = require_dit(generator.denoiser("cpu", dtype), dtype, "export")
    identity = identify(dit)
    progress.note(
        f"{generator.name}: {sum(one.numel() for one in dit.parameters()):,} parameters, {precision},"
        f" licence {generator.licence}"
    )
    rows = None
    if flavour is None:
        files, reused = _graph(config, dit, identity)
    else:
        _, height, width = generator.latent_shape
        most = 2 * batch_rows(MOST_ROWS_CUDA, height * width, "cuda")
        rows = RowRange(*(config.row_range() or (1, most, most)))
        files, reused = _engine(config, dit, identity, flavour, rows, progress)
    return Exported(
        files=files,
        format=config.format,
        precision=precision,
        weights=identity.digest,
        rows=None if rows is None else (rows.least, rows.best, rows.most),
        compute_capabilities=config.capabilities(),
        reused=reused,
        seconds=round(time.perf_counter() - started, 3),
    )


def _graph(config: ExportConfig, dit: DiT, identity: NetworkIdentity) -> tuple[tuple[Path, ...], bool]:
    """Return the files and whether they were there."""
    path = _checked_out(config) or graph_path(identity, cache_dir_or_default(config.cache_dir))
    if config.out is not None or not path.is_file():
        return export_onnx(dit, path, identity=identity), False
    return tuple(file for file in (path, data_file(path)) if file.exists()), True


def _engine(
    config: ExportConfig,
    dit: DiT,
    identity: NetworkIdentity,
    flavour: Flavour,
    rows: RowRange,
    progress: Progress,
) -> tuple[tuple[Path, ...], bool]:
    """Return the files and whether they were there."""
    capabilities, cache_dir = config.capabilities(), cache_dir_or_default(config.cache_dir)
    path = _checked_out(config) or engine_path(
        identity, flavour, rows, capabilities=capabilities, cache_dir=cache_dir
    )
    files = (path, description_file(path))
    if config.out is None and all(file.is_file() for file in files):
        return files, True
    gpus = f"compute capability {', '.join(capabilities)}" if capabilities else "the GPU of this machine"
    progress.note(f"building with {flavour.name} {flavour.version} for {gpus}, {rows} rows")
    export_engine(dit, path, flavour, rows, capabilities=capabilities, cache_dir=cache_dir, identity=identity)
    return files, False


def _checked_out(config: ExportConfig) -> Path | None:
    """The named file, whose folder is made; None where none is named."""
    if config.out is None:
        return None
    out = expanded(str(config.out))
    if out.is_dir():
        raise UserError(f"out must be a file name, got the folder {out}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise UserError(
            f"out must be a file in a folder that can be written, got {out}: {error.strerror}"
        ) from None
    return out
