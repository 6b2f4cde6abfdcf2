"""Load a full-size DiT-XL/2 from each checkpoint layout and take one guided step on the CPU.

    python -m bench.studies.dit_xl_memory --dir /some/empty/folder

Weights are random (675 M parameters, 2.5 to 2.8 GiB a file). Each layout is written, loaded and deleted in
turn, in processes of their own, so that the peak of one is not that of another. One line of JSON per layout:
file size, seconds, and the peaks of resident memory, of which the file's mapped pages can be dropped by the
system at any time and the anonymous ones cannot.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule
from mgd3_engine.dit import DiT, dit_config, load_dit, save_dit

GIB = 2**30
LAYOUTS = ("authors", "authors-ema", "diffusers", "safetensors")


def write_checkpoint(layout: str, folder: Path) -> None:
    """Write random weights without a zero layer in one layout."""
    torch.manual_seed(0)
    if layout == "diffusers":
        from diffusers import DiTTransformer2DModel

        network = DiTTransformer2DModel(out_channels=8)
        embedders = network.transformer_blocks[0].norm1.emb.state_dict()
        for block in network.transformer_blocks:
            block.norm1.emb.load_state_dict(embedders)
        network.save_pretrained(folder / "transformer")
        return
    dit = DiT(dit_config("DiT-XL/2"))
    for name, parameter in dit.named_parameters():
        if "adaLN" in name or name.startswith("final_layer"):
            torch.nn.init.normal_(parameter, std=0.02)
    if layout == "safetensors":
        save_dit(folder / "dit.safetensors", dit)
    else:
        weights = dit.state_dict()
        torch.save({"ema": weights} if layout == "authors-ema" else weights, folder / "dit.pt")


def load_and_step(layout: str, folder: Path) -> dict[str, Any]:
    """Load the checkpoint, then guide one image by one of two steps; two rows, the second the null class."""
    source = next(
        (folder / name for name in ("dit.pt", "dit.safetensors") if (folder / name).exists()), folder
    )
    with peak_anonymous_memory() as anonymous:
        started = time.perf_counter()
        dit = load_dit(source)
        load_s = time.perf_counter() - started
        loaded_gib = anonymous[0] / GIB
        sampler = GuidedSampler(
            dit,
            schedule=NoiseSchedule.linear(),
            steps=2,
            cfg_scale=4.0,
            cfg_channels=3,
            null_class=dit.null_class,
            guidance=ModeGuidance(scale=0.1, t_stop=0),
            backend="eager",
            batch_size=1,
        )
        seconds = [time.perf_counter()]
        latents = sampler.sample(
            torch.tensor([207]),
            torch.zeros(1, 4, 32, 32),
            torch.tensor([1]),
            callback=lambda *_: seconds.append(time.perf_counter()),
        )
    assert latents.isfinite().all()
    return {
        "layout": layout,
        "file_gib": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / GIB,
        "load_s": load_s,
        "first_step_s": seconds[1] - seconds[0],
        "second_step_s": seconds[2] - seconds[1],
        "peak_anonymous_after_load_gib": loaded_gib,
        "peak_anonymous_gib": anonymous[0] / GIB,
        "peak_resident_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }


@contextmanager
def peak_anonymous_memory(period_s: float = 0.01) -> Iterator[list[int]]:
    """Sample the anonymous resident memory of this process; the list's one item is the peak in bytes."""
    peak, finished = [0], threading.Event()

    def sample() -> None:
        while not finished.wait(period_s):
            status = Path("/proc/self/status").read_text()
            kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
            peak[0] = max(peak[0], kib * 1024)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        finished.set()
        thread.join()


def main() -> None:
    """Read the command line and run each layout in fresh processes."""
    parser = argparse.ArgumentParser(description="Load a full-size DiT-XL/2 and take one guided step.")
    parser.add_argument("--dir", type=Path, required=True, help="folder for the files, 3 GiB; emptied after")
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for layout in arguments.layouts:
        folder = arguments.dir / layout
        folder.mkdir(parents=True)
        try:
            with context.Pool(1, maxtasksperchild=1) as pool:
                pool.apply(write_checkpoint, (layout, folder))
                result = pool.apply(load_and_step, (layout, folder))
        finally:
            shutil.rmtree(folder)
        print(json.dumps({key: round(v, 2) if isinstance(v, float) else v for key, v in result.items()}))


if __name__ == "__main__":
    main()
