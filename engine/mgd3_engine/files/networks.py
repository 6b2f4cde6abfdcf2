"""One network of a file of weights: picked out of what else the file holds, and checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from mgd3_engine.files.weights import WRAPPERS


def rooted(weights: Mapping[str, Tensor], anchors: Collection[str]) -> dict[str, Tensor]:
    """Take one network out of a file that has it under a name of its own, perhaps beside others.

    "model.x_embedder.proj.weight" beside "loss.scale" is how Lightning stores the network of a module.

    Args:
        weights: All tensors of the file.
        anchors: Names of tensors that the network has, one of which is enough.

    Returns:
        The tensors below the prefix of an anchor, without it; all of them where there is no prefix, or no
        anchor. Of several prefixes that of an average ("ema" is in its name) counts, else one of `WRAPPERS`.

    Raises:
        ValueError: There are several such networks.
    """
    prefixes = {
        name.removesuffix(anchor)
        for name in weights
        for anchor in anchors
        if name == anchor or name.endswith(f".{anchor}")
    }
    averages = max((one.count("ema") for one in prefixes), default=0)
    found = [one for one in prefixes if one.count("ema") == averages]
    # A layer deep inside may be called as the anchor is: the outermost counts.
    found = [one for one in found if not any(one != outer and one.startswith(outer) for outer in found)]
    if len(found) > 1:
        found = [one for one in found if one[:-1] in WRAPPERS] or found
    if len(found) > 1:
        raise ValueError(f"it holds several networks, below {' and '.join(sorted(found)[:3])}")
    prefix = found[0] if found else ""
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def check_weights(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that no network can be computed with; single whole numbers are counters.

    Raises:
        ValueError: A tensor holds NaN or infinity, or whole numbers, as in a quantised network, that would be
            cast to other weights than were meant; the message names it.
    """
    for name, tensor in weights.items():
        if tensor.ndim and not tensor.is_floating_point():
            raise ValueError(
                f"the tensor {name} holds {tensor.dtype}, and weights are floating-point numbers"
            )
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        values = tensor.to(torch.float16) if tensor.itemsize == 1 else tensor
        # The extremes are NaN where there is any: 0.12 s for KL-f8 on a core, where isfinite takes 1.2.
        if not torch.stack(values.aminmax()).isfinite().all():
            raise ValueError(f"the tensor {name} holds NaN or infinity")
