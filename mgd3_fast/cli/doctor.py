"""`mgd3-fast doctor`."""

from __future__ import annotations

from typing import Any

from mgd3_fast.cli.process import loading
from mgd3_fast.config.doctor import DoctorConfig
from mgd3_fast.progress import Progress

CONFIG = DoctorConfig
EXAMPLES = {
    "mgd3-fast doctor": "what works here, and what would make the rest work",
    "mgd3-fast doctor --accuracy": "how far backends and precisions are from float32",
}


def run(config: DoctorConfig, progress: Progress) -> tuple[dict[str, Any], str]:
    """Examine the machine, or its backends' accuracy."""
    if config.accuracy:
        progress.note(
            "sampling by each backend in each number format; compiling and exporting take their time"
        )
        with loading():
            from mgd3_fast.doctor.accuracy import measure_accuracy

        found = measure_accuracy(config.generator or "demo-mnist5k", progress=progress)
        return found, _accuracy_report(found)
    progress.note("trying each backend; compiling takes some seconds")
    with loading():
        from mgd3_fast.doctor.machine import examine

    found = examine(online=config.online)
    return found, _report(found)


def _accuracy_report(found: dict[str, Any]) -> str:
    lines = [
        f"{found['generator']} on {found['device']}, {found['threads']} threads, torch {found['torch']}:"
        f" {found['images']} images, guided {found['sampler']}, {found['steps']} steps;"
        f" final latents against {found['reference']}, over their root mean square",
        f"{'backend':<12} {'precision':<9} {'rms':>8} {'largest':>8} {'images/s':>9} {'speed-up':>8}"
        f" {'prepared, s':>11}",
    ]
    for one in found["results"]:
        name = f"{one['backend']:<12} {one['precision']:<9}"
        if one["works"]:
            lines.append(
                f"{name} {one['relative_rms']:>8.1e} {one['largest']:>8.1e} {one['images_per_s']:>9.4g}"
                f" {one['speedup']:>8.2f} {one['prepared_s']:>11.1f}"
            )
        else:
            lines.append(f"{name} does not run: {one['reason']}")
    return "\n".join(lines)


def _report(found: dict[str, Any]) -> str:
    processor, cache, hub = found["processor"], found["cache"], found["hub"]
    installed = [f"{name} {version}" for name, version in found["packages"].items() if version]
    missing = [name for name, version in found["packages"].items() if not version]
    lines = [
        f"python {found['python']}; {', '.join(installed)}",
        f"not installed: {', '.join(missing) or 'nothing'}",
        f"processor: {processor['architecture']}, {processor['usable_processors']} usable,"
        f" torch on {processor['torch_threads']} threads,"
        f" {processor['available_memory_gib']} of {processor['memory_gib']} GiB memory available,"
        f" C++ compiler {processor['cpp_compiler'] or 'missing'}",
        *(_gpu_line(index, gpu) for index, gpu in enumerate(found["gpus"])),
        *([] if found["gpus"] else ["GPU: none that torch can use"]),
        f"--device auto is {found['device']}",
        f"Triton kernels: {_outcome(found['kernels'])}",
        *(f"backend {name}: {_outcome(tried)}" for name, tried in found["backends"].items()),
        f"demo model: {_outcome(found['demo_model'])}",
        f"cache: {cache['folder']}, {cache['files']} files, {cache['size_gib']} GiB;"
        f" {cache['free_gib']} GiB free",
        f"hub: DiT-XL/2 256 is {'' if hub['dit_xl_2_256_cached'] else 'not '}in the local cache,"
        f" offline mode {'on' if hub['offline_mode'] else 'off'}",
    ]
    if "answers" in hub:
        lines.append(f"hub answers: {_outcome(hub['answers'])}")
    return "\n".join(lines)


def _gpu_line(index: int, gpu: dict[str, Any]) -> str:
    return (
        f"GPU {index}: {gpu['name']}, capability {gpu['capability']},"
        f" {gpu['free_memory_gib']} of {gpu['memory_gib']} GiB free, driver {gpu['driver'] or 'unknown'}"
    )


def _outcome(tried: dict[str, Any]) -> str:
    return f"works ({tried['detail']})" if tried["works"] else f"does not work: {tried['reason']}"
