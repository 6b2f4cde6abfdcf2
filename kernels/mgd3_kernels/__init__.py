"""Triton kernels for guided diffusion sampling, each beside its plain-torch reference.

Importing this package loads torch alone: Triton is imported by the first call that launches a kernel.
"""

from mgd3_kernels.adaln import (
    gated_residual_norm,
    gated_residual_norm_reference,
    modulated_norm,
    modulated_norm_reference,
)
from mgd3_kernels.coefficients import Coefficient
from mgd3_kernels.group_norm import group_norm_silu, group_norm_silu_reference
from mgd3_kernels.guided_step import guided_step, guided_step_reference
from mgd3_kernels.kmeans import KMeansResult, batched_kmeans, batched_kmeans_reference
from mgd3_kernels.philox import philox4x32, philox_normal

__all__ = [
    "Coefficient",
    "KMeansResult",
    "batched_kmeans",
    "batched_kmeans_reference",
    "gated_residual_norm",
    "gated_residual_norm_reference",
    "group_norm_silu",
    "group_norm_silu_reference",
    "guided_step",
    "guided_step_reference",
    "modulated_norm",
    "modulated_norm_reference",
    "philox4x32",
    "philox_normal",
]
