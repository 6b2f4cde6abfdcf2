"""What it costs OpenMP's threads to spin while they wait for each other, on quiet and on busy processors.

A small DiT is trained in processes of two threads, in turn: as GNU OpenMP waits by itself, as `mgd3-fast`
tells it to (`GOMP_SPINCOUNT=1000`), and with one thread. With `--busy N`, N others of two
spinning threads run beside.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

SETTINGS = {
    "2 threads, spinning": {"OMP_NUM_THREADS": "2"},
    "2 threads, GOMP_SPINCOUNT=1000": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "1000"},
    "1 thread": {"OMP_NUM_THREADS": "1"},
}


def steps_a_second(seconds: float) -> float:
    """Train in this process, and count."""
    import torch

    from mgd3_engine.dit import DiT, DiTConfig

    torch.manual_seed(0)
    config = DiTConfig(
        input_size=8, patch_size=2, hidden_size=192, depth=6, num_heads=4, num_classes=10, learn_sigma=True
    )
    network = DiT(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    x, timestep, labels = torch.randn(16, 4, 8, 8), torch.rand(16) * 1000, torch.randint(10, (16,))

    def step() -> None:
        optimizer.zero_grad()
        network(x, timestep, labels).square().mean().backward()
        optimizer.step()

    step()
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - started)


def start(setting: dict[str, str], seconds: float) -> subprocess.Popen[str]:
    """Train in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--child", str(seconds)]
    return subprocess.Popen(command, env={**os.environ, **setting}, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=0, help="processes beside (default: 0)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each training")
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(steps_a_second(arguments.child))
        return
    beside = [start({"OMP_NUM_THREADS": "2"}, 1e6) for _ in range(arguments.busy)]
    try:
        for _ in range(arguments.rounds):
            for name, setting in SETTINGS.items():
                printed, _ = start(setting, arguments.seconds).communicate()
                print(f"{name}: {float(printed):.2f} steps/s", flush=True)
    finally:
        for process in beside:
            process.kill()


if __name__ == "__main__":
    main()
