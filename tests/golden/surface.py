"""What users see of the program without running it: help, refusals of wrong input, public Python names."""

from __future__ import annotations

import inspect
import re
from typing import Any

MISTAKES = {
    "unknown command": ["distil"],
    "unknown option": ["distill", "--dataset", "mnist5k", "--ipc", "1", "--out", "x", "--step", "4"],
    "required": ["distill", "--dataset", "mnist5k"],
    "dataset": ["encode", "--dataset", "mnist6k"],
    "empty": ["encode", "--dataset", ""],
    "ipc": ["discover", "--dataset", "mnist5k", "--out", "x", "--ipc", "0"],
    "ipc above the class": ["distill", "{insects}", "--out", "x", "--ipc", "99"],
    "classes": ["distill", "{insects}", "--out", "x", "--ipc", "1", "--classes", "dog"],
    "generator of other classes": [
        "distill",
        "{insects}",
        "--generator",
        "{dit}",
        "--out",
        "x",
        "--ipc",
        "1",
    ],
    "unknown generator": ["encode", "--dataset", "mnist5k", "--generator", "dit-xxl"],
    "shard": ["distill", "{insects}", "--out", "x", "--ipc", "1", "--shard", "3/2"],
    "eta": ["distill", "{insects}", "--out", "x", "--ipc", "1", "--sampler", "ddpm", "--eta", "1"],
    "t_stop": ["distill", "{insects}", "--out", "x", "--ipc", "1", "--t-stop", "9", "--steps", "4"],
    "another run's folder": ["distill", "{insects}", "--out", "{run}", "--ipc", "3"],
    "no run": ["report", "{root}"],
    "nothing there": ["convert", "{root}/nothing", "x", "--format", "tensor"],
    "protocol": ["evaluate", "{run}", "--dataset", "mnist5k", "--protocol", "easy"],
    "teacher": ["evaluate", "{run}", "--dataset", "mnist5k", "--protocol", "soft"],
    "metrics of other classes": ["metrics", "{run}", "{insects}", "--classes", "ant"],
    "graph of a U-Net": ["export", "--generator", "{ldm}"],
    "training": ["train", "--dataset", "mnist5k", "--out", "x", "--heads", "0"],
}
"""Words of wrong commands; what stands in braces is filled in by the test."""


def described(help: str) -> dict[str, str]:
    """What a help text says of each command, argument and option."""
    found: dict[str, str] = {}
    for line in help.split("\nexamples:")[0].split("\n\n", 1)[1].splitlines():
        entry = re.fullmatch(r" {2,4}(\S.*?)(?: {2,}(.*))?", line)
        if entry and not line.startswith("     "):
            found[entry[1]] = entry[2] or ""
        elif found and line.startswith(" ") and line.strip():
            name = list(found)[-1]
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def shape_of(thing: Any) -> Any:
    """Parameters with their defaults; of a class also those of its public methods, and its other names."""
    if not inspect.isclass(thing):
        return parameters(thing) if callable(thing) else type(thing).__name__
    members = {name: one for name, one in vars(thing).items() if not name.startswith("_")}
    return {
        "": parameters(thing),
        **{name: parameters(one) if inspect.isfunction(one) else "" for name, one in members.items()},
    }


def parameters(function: Any) -> list[str]:
    """Names and defaults; none where Python knows none, as of an exception or an alias of a type."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return []
    return [
        one.name if one.default is one.empty else re.sub(" at 0x[0-9a-f]+", "", f"{one.name}={one.default!r}")
        for one in signature.parameters.values()
    ]
