"""What a GPU must show of the kernels; `checks.py` runs these and writes what they return.

Shape letters: B images, C channels, H W latent size, S steps.

All of them also run in Triton's interpreter, on small sizes and without judging speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from bench.gpu.checking import Check, Setting, make_replay, median_seconds, require
from bench.gpu.step_arguments import DTYPES, STEPS, Step, make_step, step_bytes
from mgd3_kernels import guided_step, guided_step_reference, philox4x32

# max |kernel - reference| / max |reference|: both round in float32, the kernel with fused multiply-adds.
STEP_BOUND = 2e-6
# float32 Box-Muller against float64: in last places of the radius, and absolute.
NORMAL_ULP_BOUND, NORMAL_BOUND = 6.0, 2e-6
COPY_SHARE_GOAL = 0.8
LAUNCH_GOAL = 10


def check_philox_integers(setting: Setting) -> dict[str, Any]:
    """The kernels' Philox draws the integers that the CPU draws."""
    from mgd3_kernels.triton_philox import philox4x32_on_device

    count = setting.size(2**22, 2**10)
    generator = torch.Generator().manual_seed(0)
    counter = torch.randint(0, 2**32, (count, 4), generator=generator)
    key = torch.randint(0, 2**32, (count, 2), generator=generator)
    words = philox4x32_on_device(counter.to(setting.device), key.to(setting.device)).cpu()
    different = int((words != philox4x32(counter, key)).sum())
    return require(different == 0, "integers differ", {"blocks": count, "different_words": different})


def check_normals(setting: Setting) -> dict[str, Any]:
    """The float32 Box-Muller transform lies near float64, at both ends of the radius too."""
    from mgd3_kernels.triton_philox import box_muller_on_device

    count = setting.size(2**24, 2**14)
    words = torch.randint(0, 2**32, (count, 2), generator=torch.Generator().manual_seed(1))
    words[: count // 4, 0] = torch.arange(count // 4)
    words[count // 4 : count // 2, 0] = 2**32 - 1 - torch.arange(count // 4)
    u = (words.to(setting.device).double() + 0.5) / 2**32
    radius = torch.sqrt(-2 * torch.log(u[:, 0]))[:, None]
    angle = 2 * math.pi * u[:, 1]
    want = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    got = box_muller_on_device(words.to(setting.device)).double()
    error = (got - want).abs()
    last_place = torch.exp2(torch.floor(torch.log2(radius)) - 23)
    figures = {
        "pairs": count,
        "max_abs_error": error.max().item(),
        "max_error_ulp_of_radius": (error / last_place).max().item(),
    }
    holds = figures["max_abs_error"] < NORMAL_BOUND and figures["max_error_ulp_of_radius"] < NORMAL_ULP_BOUND
    return require(holds, f"beyond {NORMAL_ULP_BOUND} ulp or {NORMAL_BOUND}", figures)


def variants(setting: Setting, *, history: bool) -> Iterator[dict[str, Any]]:
    shapes = [(2, 4, 32, 32), (7, 3, 5, 7), (1, 1, 1, 1)] if setting.on_gpu else [(2, 3, 5, 7)]
    flags = (True, False)
    choices = product(shapes, DTYPES, flags, flags, flags, ("counter", "given", "none"))
    for index, (shape, dtype, cfg, learned, guided, noise) in enumerate(choices):
        sampled = not history or noise != "given"  # a sampler with history draws its noise or has none
        if sampled and (setting.on_gpu or index % 7 == 0):
            yield {
                "shape": shape,
                "dtype": dtype,
                "cfg": cfg,
                "learned_variance": learned,
                "guided": guided,
                "noise": noise,
                "history": history,
            }


def relative_to_largest(got: Tensor, want: Tensor) -> float:
    return ((got - want).abs().max() / want.abs().max()).item()


def check_kernel_against_reference(setting: Setting) -> dict[str, Any]:
    """Every variant of the kernel gives what plain torch gives, and stores the network's next input."""
    return compare_with_reference(setting, history=False)


def check_solver_against_reference(setting: Setting) -> dict[str, Any]:
    """The same with the history of a solver of second order, which is read and overwritten."""
    return compare_with_reference(setting, history=True)


def compare_with_reference(setting: Setting, *, history: bool) -> dict[str, Any]:
    worst, worst_variant, count, wrong_inputs = 0.0, {}, 0, 0
    for variant in variants(setting, history=history):
        step = make_step(setting.device, **variant)
        kept, want_kept = (step.options["history"].clone() if history else None for _ in range(2))
        got = step.run(history=kept)
        stored = step.options["net_input"].clone()
        want = step.run(guided_step_reference, history=want_kept)
        error = relative_to_largest(got, want)
        if kept is not None and want_kept is not None:
            error = max(error, relative_to_largest(kept, want_kept))
        if not error <= worst:
            worst, worst_variant = error, variant
        count += 1
        # The interpreter cuts bfloat16 off where GPUs round.
        if setting.on_gpu or variant["dtype"] != "bf16":
            wrong_inputs += not torch.equal(stored, got.to(stored.dtype).repeat(1 + variant["cfg"], 1, 1, 1))
    figures = {
        "variants": count,
        "max_relative_error": worst,
        "worst_variant": worst_variant,
        "wrong_inputs": wrong_inputs,
    }
    return require(worst < STEP_BOUND and not wrong_inputs, f"error beyond {STEP_BOUND}", figures)


def check_strided_out(setting: Setting) -> dict[str, Any]:
    """A network output that is not contiguous, or lies in patches, changes no bit."""
    shape = (setting.size(8, 2), 4, 8, 8)
    dense = make_step(setting.device, shape).run()
    layouts = ("channel-slice", "channels-last", "patches")
    equal = {
        name: torch.equal(make_step(setting.device, shape, layout=name).run(), dense) for name in layouts
    }
    return require(all(equal.values()), "bits differ", {"bitwise_equal": equal})


def check_batch_invariance(setting: Setting) -> dict[str, Any]:
    """An image's bytes do not depend on the size of its batch or its place in it."""
    B = setting.size(64, 7)
    step = make_step(setting.device, (B, 4, 32, 32) if setting.on_gpu else (B, 3, 5, 7))
    together = step.run()
    equal = {}
    for image in (0, B // 2, B - 1):
        rows = [image, B + image]
        options = {name: step.options[name][image : image + 1] for name in ("modes", "seeds")}
        options |= {name: step.options[name] for name in ("cfg_scale", "cfg_channels", "stream")}
        alone = Step(step.x[image : image + 1], step.out[rows], step.table, step.step, options)
        equal[str(image)] = torch.equal(alone.run()[0], together[image])
    return require(all(equal.values()), "bits differ", {"images": B, "bitwise_equal": equal})


def check_graph_replay(setting: Setting) -> dict[str, Any]:
    """One captured step, replayed while its step tensor counts down, equals the same steps run eagerly."""
    step = make_step(setting.device, (setting.size(64, 2), 4, 8, 8))
    count = setting.size(STEPS, 3)
    start, first = step.x.clone(), step.step.clone()

    def advance() -> None:
        guided_step(step.x, step.out, step.table, step.step, **step.options)
        step.step -= 1

    def trajectory(run: Callable[[], object]) -> list[Tensor]:
        step.x.copy_(start)
        step.step.copy_(first)
        states = []
        for _ in range(count):
            run()
            states.append(step.x.clone())
        return states

    eager = trajectory(advance)
    step.step.copy_(first)  # the warm-up before capture takes a step too
    replayed = trajectory(make_replay(setting, advance))
    equal = sum(torch.equal(a, b) for a, b in zip(eager, replayed, strict=True))
    different = sum(not torch.equal(a, b) for a, b in pairwise(eager))
    figures = {"steps": count, "bitwise_equal_steps": equal, "steps_that_move": different}
    return require(equal == count and different == count - 1, "replay differs from eager", figures)


def time_step(setting: Setting, shape: tuple[int, int, int, int]) -> dict[str, Any]:
    """Times of the fused step, of a copy of as many bytes, and of eager torch, over buffers used in turn."""
    first = make_step(setting.device, shape)
    traffic = step_bytes(first)
    # 512 MiB of buffers, so that from 8 images on none stays in a cache until its next turn.
    sets = setting.size(min(256, max(16, 2**29 // traffic)), 2)
    steps = [first, *(deepcopy(first) for _ in range(sets - 1))]
    halves = list(torch.zeros((sets + 1, traffic // 2), dtype=torch.uint8, device=setting.device))

    def run_all(function: Callable[..., Tensor]) -> None:
        for s in steps:
            function(s.x, s.out, s.table, s.step, **s.options)

    def copy_all() -> None:
        for source, target in pairwise(halves):
            target.copy_(source)

    def seconds(function: Callable[[], object]) -> float:
        return median_seconds(setting, make_replay(setting, function), setting.size(20, 1)) / sets

    fused = seconds(lambda: run_all(guided_step))
    eager = seconds(lambda: run_all(guided_step_reference))
    copy = seconds(copy_all)
    return {
        "bytes": traffic,
        "fused_us": fused * 1e6,
        "eager_us": eager * 1e6,
        "copy_us": copy * 1e6,
        "fused_gb_per_s": traffic / fused * 1e-9,
        "copy_gb_per_s": traffic / copy * 1e-9,
        "share_of_copy": copy / fused,
    }


def check_bandwidth(setting: Setting) -> dict[str, Any]:
    """At 256 images of 4x32x32 the fused step moves its bytes at 80% of the bandwidth of a copy."""
    if not setting.on_gpu:
        return {"1": time_step(setting, (1, 4, 8, 8))}
    figures = {str(B): time_step(setting, (B, 4, 32, 32)) for B in (1, 8, 64, 256)}
    holds = figures["256"]["share_of_copy"] >= COPY_SHARE_GOAL
    return require(holds, f"below {COPY_SHARE_GOAL} of a copy's bandwidth", figures)


def check_launch_parameters(setting: Setting) -> dict[str, Any]:
    """The kernel's tile and warps are within 5% of the best of sixteen, at 256 images and at 8."""
    from mgd3_kernels import triton_guided_step as kernel

    chosen = kernel.BLOCK, kernel.NUM_WARPS
    blocks, warps = ((256, 512, 1024, 2048), (1, 2, 4, 8)) if setting.on_gpu else ((256, 512), (4,))
    figures: dict[str, Any] = {"chosen": list(chosen)}
    slack = 1.0
    for B in (256, 8) if setting.on_gpu else (1,):
        first = make_step(setting.device, (B, 4, *([32, 32] if setting.on_gpu else [8, 8])))
        steps = [first, *(deepcopy(first) for _ in range(setting.size(31, 0)))]
        us = {}
        try:
            for kernel.BLOCK, kernel.NUM_WARPS in product(blocks, warps):

                def run_all(steps: list[Step] = steps) -> None:
                    for s in steps:
                        guided_step(s.x, s.out, s.table, s.step, **s.options)

                run_all()
                replay = make_replay(setting, run_all)
                seconds = median_seconds(setting, replay, setting.size(20, 1)) / len(steps)
                us[kernel.BLOCK, kernel.NUM_WARPS] = seconds * 1e6
        finally:
            kernel.BLOCK, kernel.NUM_WARPS = chosen
        figures[f"us_at_{B}"] = {f"{block}x{warps}": round(value, 2) for (block, warps), value in us.items()}
        slack = max(slack, us[chosen] / min(us.values()))
    figures["slower_than_best"] = round(slack, 3)
    return require(not setting.on_gpu or slack < 1.05, "other launch parameters are faster", figures)


def count_launches(function: Callable[[], object]) -> int:
    from torch.profiler import DeviceType, ProfilerActivity, profile

    function()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        function()
        torch.cuda.synchronize()
    return sum(event.device_type == DeviceType.CUDA for event in profiler.events())


def check_launches(setting: Setting) -> dict[str, Any]:
    """One launch for a step, a tenth of eager torch's or fewer, whatever the batch."""
    if not setting.on_gpu:
        return {"skipped": "launches are counted on a GPU"}
    step = make_step(setting.device, (1, 4, 32, 32))
    x = step.x.clone()
    arguments = (x, step.out, step.table, step.step)
    given = step.options | {"noise": torch.randn_like(x), "seeds": None}
    figures = {
        "fused": count_launches(lambda: guided_step(*arguments, **step.options)),
        "eager_with_counter_noise": count_launches(lambda: guided_step_reference(*arguments, **step.options)),
        "eager_with_given_noise": count_launches(lambda: guided_step_reference(*arguments, **given)),
    }
    holds = figures["fused"] == 1 and figures["eager_with_given_noise"] >= LAUNCH_GOAL
    return require(holds, "more than one launch, or not ten times fewer than eager", figures)


CHECKS: dict[str, Check] = {
    "philox-integers": check_philox_integers,
    "normals": check_normals,
    "kernel-against-reference": check_kernel_against_reference,
    "solver-against-reference": check_solver_against_reference,
    "strided-out": check_strided_out,
    "batch-invariance": check_batch_invariance,
    "graph-replay": check_graph_replay,
    "bandwidth": check_bandwidth,
    "launches": check_launches,
    "launch-parameters": check_launch_parameters,
}
