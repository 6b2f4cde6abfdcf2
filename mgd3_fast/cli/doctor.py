"""`mgd3-fast doctor`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from mgd3_fast.cli.options import add_reporting, progress_from


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--online", action="store_true", help="also ask whether the Hugging Face hub answers")
    add_reporting(parser)


def run(arguments: argparse.Namespace) -> int:
    """Examine the machine and report."""
    progress_from(arguments).note("trying each backend; compiling takes some seconds")
    from mgd3_fast.doctor import examine

    found = examine(online=arguments.online)
    print(json.dumps(found) if arguments.json else _report(found))
    return 0


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
