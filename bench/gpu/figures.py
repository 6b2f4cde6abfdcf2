"""The main figure of each check and the goal it is held to, for the table and for GPU_CHECKS.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, NamedTuple

Figures = Mapping[str, Any]


class Main(NamedTuple):
    """What a check is about, in a few words.

    Args:
        goal: What it is held to.
        text: Writes it, given the check's figures.
    """

    goal: str
    text: Callable[[Figures], str]


MAIN: dict[str, Main] = {
    "philox-integers": Main("0", lambda f: f"{f['different_words']} words differ"),
    "normals": Main("6 ulp", lambda f: f"{f['max_error_ulp_of_radius']:.1f} ulp"),
    "kernel-against-reference": Main("2e-6", lambda f: f"{f['max_relative_error']:.1e} relative error"),
    "solver-against-reference": Main("2e-6", lambda f: f"{f['max_relative_error']:.1e} relative error"),
    "strided-out": Main("equal", lambda f: _equal(f["bitwise_equal"])),
    "batch-invariance": Main("equal", lambda f: _equal(f["bitwise_equal"])),
    "graph-replay": Main("all", lambda f: f"{f['bitwise_equal_steps']} of {f['steps']} steps equal"),
    "bandwidth": Main("80%", lambda f: f"{f['256']['share_of_copy']:.0%} of a copy"),
    "launches": Main("1; 10", lambda f: f"{f['fused']}; eager {f['eager_with_given_noise']}"),
    "kmeans-against-reference": Main(
        "1e-5", lambda f: f"inertia {max(f[dtype]['inertia_error'] for dtype in ('fp32', 'fp16')):.1e} off"
    ),
    "kmeans-repeats": Main("0", lambda f: f"{sum(f['different_problems'].values())} problems differ"),
    "kmeans-graph": Main("equal", lambda f: _equal(f["bitwise_equal"])),
    "kmeans-goal": Main("0.35 s", lambda f: f"{median(f['seconds']):.2f} s"),
    "kmeans-tiles": Main("-", lambda f: f"assign {min(f['ms']['assign'].values()):.2f} ms at best"),
    "launch-parameters": Main("1.05", lambda f: f"{f['slower_than_best']:.2f} times the best"),
    "adaln-against-float64": Main("rounding", lambda f: f"bf16 {f['max_relative_error']['bf16']:.1e}"),
    "adaln-bandwidth": Main("80%", lambda f: f"{f['256']['share_of_copy']:.0%} of a copy"),
    "float8": Main("4.2%", lambda f: f"{max(f.values()):.1%} relative RMS"),
    "network-rate": Main(
        "75%; 1.3",
        lambda f: f"bf16 {_best(f, 'bf16'):.0%} of the matmul rate; fp8 {f['fp8_over_bf16']:.2f} times bf16",
    ),
    "head-padding": Main(
        "-", lambda f: f"72: {f['72']['layer_ms']:.2f} ms, 80: {f['80']['layer_ms']:.2f} ms"
    ),
    "graphs-against-steps": Main("0", lambda f: f"{f['different']} of {f['values']} values differ"),
    "solver-graphs": Main("0", lambda f: f"{f['different']} of {f['values']} values differ"),
    "cache-graphs": Main("0", lambda f: f"{f['different']} of {f['values']} values differ"),
    "graphs-at-batch-1": Main("1", lambda f: f"{f['speedup']:.1f} times"),
    "bf16-latents": Main("5%", lambda f: f"eager {f['eager_relative_rms']:.2%}"),
    "sampler-throughput": Main("23", lambda f: f"{_best(f, '', '_images_per_s'):.1f} images/s"),
    "fast-throughput": Main("80", lambda f: f"{f['fast_images_per_s']:.1f} images/s"),
    "sampler-against-diffusers": Main(
        "1.15", lambda f: f"{f['speedup_over_diffusers_compiled']:.2f} times DiTPipeline compiled"
    ),
    "discovery-in-chunks": Main(
        "equal",
        lambda f: _equal({name: f[name] for name in ("equal_again", "equal_in_chunks", "equal_alone")}),
    ),
    "decode-choice": Main("95%", lambda f: f"{f['share_of_best']:.0%} of the best"),
    "decode-beside-sampling": Main("0", lambda f: f"{f['different_bytes']} bytes differ"),
    "autoencoder-throughput": Main(
        "600; 1,500",
        lambda f: f"{f['decode_images_per_s']:.0f} decoded, {f['encode_images_per_s']:.0f} encoded images/s",
    ),
    "encode-pipeline": Main(
        "90%", lambda f: f"{f['share']:.0%}; from JPEG {f['from_jpeg_images_per_s']:.0f}/s"
    ),
    "evaluation-repeats": Main("0", lambda f: f"{len(f['differing'])} of {f['trained']} trainings differ"),
    "evaluation-augmentation": Main("25%", lambda f: f"{f['augmentation_share']:.0%} of a step"),
}


def main_figure(name: str, result: Mapping[str, Any]) -> str:
    """Say in a few words what a check found.

    Args:
        name: Of the check.
        result: Its status, figures and reason, as in gpu_checks.json.

    Returns:
        The main figure; for a check without one its first figures that are plain numbers; else the reason.
    """
    figures = result.get("figures", {})
    if "skipped" in figures:
        return str(figures["skipped"])
    try:
        return MAIN[name].text(figures)
    except (KeyError, TypeError, ValueError):  # skipped, failed early, or of an older form
        numbers = [f"{key} {value:.4g}" for key, value in figures.items() if isinstance(value, (int, float))]
        return ", ".join(numbers[:2]) or str(result.get("reason", ""))


def screen(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Write a table of one line a check: name, status, seconds, goal, main figure.

    Args:
        results: By name of the check.

    Returns:
        Lines of at most 100 characters.
    """
    lines = [f"{'check':26} {'status':11} {'s':>6} {'goal':>10}  figure"]
    for name, result in results.items():
        goal = MAIN[name].goal if name in MAIN else ""
        seconds = f"{result['seconds']:.1f}" if "seconds" in result else "-"
        line = f"{name:26} {result['status']:11} {seconds:>6} {goal:>10}  {main_figure(name, result)}"
        lines.append(line.splitlines()[0][:100])
    statuses = [result["status"] for result in results.values()]
    lines.append(", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)))
    return "\n".join(lines)


def _equal(found: Mapping[str, bool]) -> str:
    different = [name for name, equal in found.items() if not equal]
    return f"differs: {', '.join(different)}" if different else "equal"


def _best(figures: Figures, prefix: str, suffix: str = "_matmul_share") -> float:
    return max(v for k, v in figures.items() if k.startswith(prefix) and k.endswith(suffix))
