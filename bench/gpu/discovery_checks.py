"""What a GPU must show of mode discovery; `checks.py` runs these and writes what they return.

Shape letters: n images of a class, P classes, K modes, D = C*h*w.

They need what the package `mgd3_fast` needs, and are skipped without; cuML and CuPy for one of them.
"""

from __future__ import annotations

import tempfile
import time
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu.checking import Check, Setting, needs_packages, require

# Mean inertia over the classes: two K-means of one problem end in different local minima.
INERTIA_BOUND = 0.02


def class_latents(n: int, dim: int, seed: int, device: torch.device) -> Tensor:
    """Latents [n, D] in 24 overlapping groups."""
    generator = torch.Generator(device).manual_seed(seed)
    groups = torch.randn(24, dim, generator=generator, device=device)
    chosen = torch.randint(24, (n,), generator=generator, device=device)
    return groups[chosen] + torch.randn(n, dim, generator=generator, device=device)


@needs_packages
def check_discovery_in_chunks(setting: Setting) -> dict[str, Any]:
    """Modes do not depend on how classes are grouped for the device, and are those of each class alone."""
    with tempfile.TemporaryDirectory() as folder:
        return _discover_in_chunks(setting, Path(folder))


def _discover_in_chunks(setting: Setting, folder: Path) -> dict[str, Any]:
    import numpy as np

    from mgd3_fast.datasets import ArrayImages, Dataset, ImageClass
    from mgd3_fast.latents import LatentStore
    from mgd3_fast.modes import Discovery, discover_modes, kmeans_runner, method_named

    side, ipc = setting.size(32, 1), setting.size(50, 2)
    sizes = [setting.size(n, n // 200) for n in (732, 1300, 981)] * setting.size(20, 1)
    classes = tuple(
        ImageClass(str(label), label, ArrayImages(np.full((n, 1, 1), label % 256, np.uint8)))
        for label, n in enumerate(sizes)
    )
    dataset = Dataset("ragged", classes, tuple(cls.name for cls in classes))
    store = LatentStore(folder, "synthetic", 8 * side)
    store.prepare()
    shape = (4, side, side)
    for cls in classes:
        latents = class_latents(len(cls), 4 * side * side, cls.label, setting.device)
        store.put(cls, latents.reshape(-1, *shape), torch.arange(len(cls)))

    def discover(chunk_bytes: int | None = None) -> tuple[Tensor, float]:
        started = time.perf_counter()
        wanted = Discovery(ipc=ipc, runner="triton", device=setting.device)
        found = discover_modes(dataset, store, shape, wanted, chunk_bytes=chunk_bytes)
        return found.modes, time.perf_counter() - started

    whole, _ = discover()
    again, seconds = discover()
    pieces, _ = discover(3 * max(sizes) * 16 * side * side)
    finder = method_named("kmeans", runner=kmeans_runner("triton"))
    first = store.get(classes[0])
    assert first is not None
    alone = finder.fit(first.flatten(1).to(setting.device), ipc, 0).centers
    figures = {
        "classes": len(sizes),
        "ipc": ipc,
        "seconds": seconds,
        "latents_gb_per_s": sum(sizes) * 16 * side * side * 1e-9 / seconds,
        "equal_again": torch.equal(again, whole),
        "equal_in_chunks": torch.equal(pieces, whole),
        "equal_alone": torch.equal(alone, whole[0].flatten(1)),
        "finite": bool(whole.isfinite().all()),
    }
    names = ("equal_again", "equal_in_chunks", "equal_alone", "finite")
    return require(all(figures[name] for name in names), "modes differ", figures)


@needs_packages
def check_cuml(setting: Setting) -> dict[str, Any]:
    """cuML clusters torch's memory without a copy, as well as the batched kernels do."""
    if not setting.on_gpu:
        return {"skipped": "needs CUDA"}
    import cuml  # noqa: F401 - what the runner needs
    import cupy

    from mgd3_fast.modes import kmeans_runner

    offsets = list(accumulate([732, 1300, 981] * 7, initial=0))
    features = torch.cat(
        [class_latents(end - begin, 4096, begin, setting.device) for begin, end in pairwise(offsets)]
    )
    centers, seconds = {}, {}
    for name in ("triton", "cuml", "cuml again"):
        runner = kmeans_runner(name.split()[0])
        runner.cluster(features, offsets, 50, 0)
        torch.cuda.synchronize()
        started = time.perf_counter()
        centers[name] = runner.cluster(features, offsets, 50, 0).centers
        torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - started

    def inertia(name: str) -> float:
        classes = zip(pairwise(offsets), centers[name], strict=True)
        return sum(
            float(torch.cdist(features[b:e], c).min(1).values.double().square().sum())
            for (b, e), c in classes
        )

    figures = {
        "classes": len(offsets) - 1,
        "seconds": seconds,
        "cuml_over_triton_time": seconds["cuml"] / seconds["triton"],
        "cuml_over_triton_inertia": inertia("cuml") / inertia("triton"),
        "same_memory": int(cupy.from_dlpack(features).data.ptr) == features.data_ptr(),
        "cuml_bytes_repeat": torch.equal(centers["cuml"], centers["cuml again"]),
    }
    near = abs(figures["cuml_over_triton_inertia"] - 1) < INERTIA_BOUND
    return require(near and figures["same_memory"], f"inertia beyond {INERTIA_BOUND} or copied", figures)


CHECKS: dict[str, Check] = {
    "discovery-in-chunks": check_discovery_in_chunks,
    "kmeans-cuml": check_cuml,
}
