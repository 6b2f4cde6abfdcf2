"""A DiT written as a typed ONNX graph of any number of rows.

Shape letters: R rows of a batch, C channels, H W latent size, O output channels.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mgd3_engine.dit import DiT
from mgd3_engine.export.identity import NetworkIdentity, identify, installed_version
from mgd3_engine.installing import install_command

_log = logging.getLogger(__name__)

INPUT_NAMES = ("x", "timestep", "class_ids")
OUTPUT_NAME = "output"
OPSET = 20  # the first with GELU
EXTERNAL_DATA_ABOVE = 2**30  # bytes; a protobuf file ends at 2 GiB
METADATA_PREFIX = "mgd3_fast."
_FORMAT = 2
_EXAMPLE_ROWS = 2


def export_onnx(
    dit: DiT,
    path: Path,
    *,
    identity: NetworkIdentity | None = None,
    external_data_above: int = EXTERNAL_DATA_ABOVE,
) -> tuple[Path, ...]:
    """Write a DiT as an ONNX graph in its own number format.

    Inputs x `[R, C, H, W]`, timestep int64 `[R]`, class_ids int64 `[R]`, output `[R, O, H, W]`, R being free.
    The sinusoids of the timestep are float32 whatever the format: bfloat16 cannot tell 750 from 752.

    Args:
        dit: The network, all weights of one dtype, on any device.
        path: The graph, which appears, or replaces an older one, only when complete. A large network's
            weights go to a second file beside it, of the same name with `.data` after it.
        identity: Of the network, where it is known already.
        external_data_above: Weights of more bytes than this go to the second file.

    Returns:
        The files written, the graph first.

    Raises:
        ValueError: The packages onnx and onnxscript are missing.
        OSError: The folder cannot be written.
    """
    onnx = _import_onnx()
    identity = identity or identify(dit)
    external = weights_bytes(dit) > external_data_above
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        # The graph names its data file: both are written under their last names, in another folder.
        unfinished = Path(folder) / path.name
        program = _trace(dit)
        program.model.producer_name = "mgd3-fast"
        program.model.producer_version = installed_version("mgd3-fast")
        program.model.metadata_props.update(_metadata(identity))
        program.save(str(unfinished), external_data=external or None)
        del program
        # By path: a model of over 2 GiB cannot be handed over as one message.
        onnx.checker.check_model(str(unfinished), full_check=True)
        _check_types(onnx.load(str(unfinished), load_external_data=False), identity)
        written: list[Path] = []
        for name in (data_file(path).name, path.name):  # the graph last: it is complete once it is there
            if (Path(folder) / name).exists():
                (Path(folder) / name).replace(path.with_name(name))
                written.insert(0, path.with_name(name))
    return tuple(written)


def cached_onnx(dit: DiT, cache_dir: Path, *, identity: NetworkIdentity | None = None) -> Path:
    """Find a network's graph in the cache, exporting it the first time.

    Args:
        dit: The network.
        cache_dir: Folder of what is kept for later runs.
        identity: Of the network, where it is known already.

    Returns:
        The graph's file, in `cache_dir/onnx`.

    Raises:
        ValueError, OSError: As `export_onnx`.
    """
    identity = identity or identify(dit)
    path = graph_path(identity, cache_dir)
    if not path.is_file():
        _log.info("exporting the network to %s", path)
        export_onnx(dit, path, identity=identity)
    return path


def graph_path(identity: NetworkIdentity, cache_dir: Path) -> Path:
    """Name a network's graph in the cache, whether it exists or not.

    The name covers the weights, the architecture, the number format and the versions of what writes graphs.

    Args:
        identity: Of the network.
        cache_dir: Folder of what is kept for later runs.

    Returns:
        A file in `cache_dir/onnx`.
    """
    key = hashlib.sha256(json.dumps([_FORMAT, _metadata(identity), _writers()]).encode()).hexdigest()
    return cache_dir / "onnx" / f"{identity.precision}-{key[:24]}.onnx"


def data_file(path: Path) -> Path:
    """Name the file that holds a large graph's weights."""
    return path.with_name(f"{path.name}.data")


def weights_bytes(dit: DiT) -> int:
    """Count the bytes of a network's weights, on the meta device too."""
    return sum(tensor.numel() * tensor.element_size() for tensor in dit.state_dict().values())


def _trace(dit: DiT) -> Any:
    """Trace the network into an unsaved ONNX program whose rows are free."""
    network = _on_cpu(dit)
    config, dtype = dit.config, next(dit.parameters()).dtype
    x = torch.zeros(_EXAMPLE_ROWS, config.in_channels, config.input_size, config.input_size, dtype=dtype)
    numbers = torch.zeros(_EXAMPLE_ROWS, dtype=torch.int64)
    rows = torch.export.Dim("rows", min=1)
    with torch.no_grad(), _quietly():
        return torch.onnx.export(
            network,
            (x, numbers, numbers.clone()),
            dynamo=True,
            input_names=list(INPUT_NAMES),
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: rows}, {0: rows}, {0: rows}),
            opset_version=OPSET,
            verbose=False,
        )


def _on_cpu(dit: DiT) -> DiT:
    weights = dit.state_dict()
    if all(tensor.device.type == "cpu" for tensor in weights.values()):
        return dit
    with torch.device("meta"):
        copied = DiT(dit.config)
    copied.load_state_dict({name: tensor.cpu() for name, tensor in weights.items()}, assign=True)
    return copied.eval().requires_grad_(False)


def _check_types(model: Any, identity: NetworkIdentity) -> None:
    """Our own promise: the network's number format at x and output, int64 at the rest."""
    from onnx import TensorProto

    own = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    types = {one.name: one.type.tensor_type.elem_type for one in [*model.graph.input, *model.graph.output]}
    expected = dict.fromkeys(INPUT_NAMES, TensorProto.INT64)
    expected["x"] = expected[OUTPUT_NAME] = own[identity.precision]
    assert types == expected, types


def _metadata(identity: NetworkIdentity) -> dict[str, str]:
    stated = {
        "version": installed_version("mgd3-fast"),
        "weights": identity.digest,
        "precision": identity.precision,
        "dit": json.dumps(asdict(identity.config), sort_keys=True),
    }
    return {METADATA_PREFIX + name: text for name, text in stated.items()}


def _writers() -> dict[str, str]:
    return {name: installed_version(name) for name in ("torch", "onnx", "onnxscript")}


def _import_onnx() -> Any:
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch.onnx needs it, and says so less clearly
    except ImportError as error:
        raise ValueError(
            f"to export a network, install onnx and onnxscript ({error.name} is missing):"
            f" {install_command('onnx')}"
        ) from None
    return onnx


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep torch's exporter from telling about operators of packages that are not there."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
