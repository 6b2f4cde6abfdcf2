"""What an exported network is known by: equal identities compute the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import torch

from mgd3_engine.denoiser import Denoiser
from mgd3_engine.dit import DiT, DiTConfig
from mgd3_engine.files.digest import weights_digest

PRECISIONS: dict[str, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class NetworkIdentity:
    """A DiT's weights in one number format.

    Args:
        digest: sha256 over the weights in that format and over the architecture.
        precision: One of `PRECISIONS`.
        config: The architecture.
    """

    digest: str
    precision: str
    config: DiTConfig

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, the input x and the output."""
        return PRECISIONS[self.precision]


def installed_version(package: str) -> str:
    """Return the version of an installed package, or an empty string: ours may run from its sources."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def identify(dit: DiT) -> NetworkIdentity:
    """Find the identity of a network; reads all of its weights.

    Args:
        dit: Its weights are all of one of the dtypes of `PRECISIONS`.

    Returns:
        The identity.
    """
    digest = weights_digest(dit.state_dict(), json.dumps(asdict(dit.config), sort_keys=True))
    dtype = next(dit.parameters()).dtype
    precision = next(name for name, one in PRECISIONS.items() if one == dtype)
    return NetworkIdentity(digest=digest, precision=precision, config=dit.config)


def require_dit(denoiser: Denoiser, dtype: torch.dtype, purpose: str) -> DiT:
    """Return the denoiser if it is a network that can be exported.

    Args:
        denoiser: Any denoiser.
        dtype: That its weights must have.
        purpose: What it is wanted for, for the message, such as "backend tensorrt".

    Returns:
        The denoiser.

    Raises:
        ValueError: It is no DiT, or not all of its weights are of `dtype`.
    """
    if not isinstance(denoiser, DiT):
        raise ValueError(
            f"denoiser must be a mgd3_engine.dit.DiT for {purpose}, got a {type(denoiser).__name__};"
            " backends eager and compiled take any callable"
        )
    if others := {tensor.dtype for tensor in denoiser.state_dict().values()} - {dtype}:
        found = ", ".join(sorted(str(one) for one in others))
        raise ValueError(f"denoiser must have all its weights in {dtype} for {purpose}, got also {found}")
    return denoiser
