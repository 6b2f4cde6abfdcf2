"""The rows of the README's table: what each says, and the figures that fill it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """What a row says, and the figures that fill its text.

    Args:
        what: The row's first cell.
        text: The second cell, with a `{name}` for each figure.
        figures: By name: op, provider, metric, dtype, and what its size begins with; a rate is of `kind`.
        kind: "cpu" or "cuda".
    """

    what: str
    text: str
    figures: Mapping[str, tuple[str, str, str, str, str]] = field(default_factory=dict)
    kind: str = "cpu"


def _authors(size: str, dtype: str) -> tuple[str, str, str, str, str]:
    return "sampler", "ours", "speedup_over_authors_fp32", dtype, size


def _diffusers(size: str, dtype: str, against: str) -> tuple[str, str, str, str, str]:
    return "sampler_ddim_unguided", "ours", f"speedup_over_diffusers_{against}", dtype, size


def _cli(latents: str, metric: str) -> tuple[str, str, str, str, str]:
    size = f"mnist5k, 10 images a class, latents {latents}"
    return "distill", "mgd3-fast distill", metric, "auto", size


def peers(metric: str, provider: str = "ours", dtype: str = "bf16") -> tuple[str, str, str, str, str]:
    return "sampler_peers", provider, metric, dtype, ""


def check(name: str, metric: str) -> tuple[str, str, str, str, str]:
    return f"check {name}", "ours", metric, "", ""


def _sampler_rows(size: str, label: str, kind: str) -> list[Row]:
    against_authors = {
        "fp32": _authors(size, "fp32"),
        "bf16": _authors(size, "bf16"),
        "rate": ("sampler", "ours", "rate", "fp32", size),
    }
    against_diffusers = {
        "fp32": _diffusers(size, "fp32", "fp32"),
        "bf16": _diffusers(size, "bf16", "bf16"),
        "mixed": _diffusers(size, "bf16", "fp32"),
    }
    text = "{fp32} times in fp32, {bf16} in bf16; our bf16 against its fp32 {mixed}"
    if kind == "cuda":  # where the rival is compiled too
        against_diffusers["compiled"] = _diffusers(size, "bf16", "compiled_bf16")
        text = "{compiled} times it compiled in bf16; eager " + text
    return [
        Row(
            f"{label}: sampler against the authors' way, one image at a time in fp32",
            "{fp32} times the images/s in fp32 ({rate}), {bf16} in bf16",
            against_authors,
            kind,
        ),
        Row(
            f"{label}: sampler against diffusers' DiTPipeline, same batch and weights",
            text,
            against_diffusers,
            kind,
        ),
    ]


_GPU_ROWS = (
    Row(
        "one GPU, DiT-XL/2 at 256 px, 50 steps with CFG, batch 128, bf16: sampler against diffusers'"
        " DiTPipeline under torch.compile, its best rival",
        "**{compiled} times** its images/s: {ours} against {rival}",
        {
            "compiled": peers("speedup_over_diffusers_compiled"),
            "ours": peers("rate"),
            "rival": peers("rate", "diffusers compiled"),
        },
        "cuda",
    ),
    Row(
        "the same against DiTPipeline eager; against the authors' way, one image at a time in fp32",
        "{eager} times; {authors} times",
        {
            "eager": peers("speedup_over_diffusers_eager"),
            "authors": peers("speedup_over_authors_fp32_one_by_one"),
        },
        "cuda",
    ),
    Row("the same in fp8", "{rate}", {"rate": peers("rate", dtype="fp8")}, "cuda"),
    Row(
        "one GPU, DiT-XL/2, one image a batch: both phases as CUDA graphs against step by step",
        "{graphs} ms against {steps} ms an image",
        {
            "graphs": check("graphs-at-batch-1", "graphs_auto_ms_per_image"),
            "steps": check("graphs-at-batch-1", "graphs_off_ms_per_image"),
        },
        "cuda",
    ),
    Row(
        "one GPU: fused step at 256 images of 4x32x32",
        "{launches} launch where eager torch needs {eager}; {share} of the bandwidth of a copy",
        {
            "launches": check("launches", "fused"),
            "eager": check("launches", "eager_with_given_noise"),
            "share": check("bandwidth", "256.share_of_copy"),
        },
        "cuda",
    ),
    Row(
        "one GPU: K-means of 1,000 classes of 732 to 1,300 rows of 4,096 numbers, k = 50",
        "{seconds} s; inertia {inertia} of scikit-learn's",
        {
            "seconds": check("kmeans-goal", "seconds"),
            "inertia": check("kmeans-goal", "inertia_over_sklearn"),
        },
        "cuda",
    ),
    Row(
        "one GPU: KL-f8 autoencoder at 256 px, bf16",
        "{decode} images/s decoded, {encode} encoded",
        {
            "decode": check("autoencoder-throughput", "decode_images_per_s"),
            "encode": check("autoencoder-throughput", "encode_images_per_s"),
        },
        "cuda",
    ),
)

ROWS: tuple[Row, ...] = (
    *_GPU_ROWS,
    *_sampler_rows("demo DiT", "demo network, batch 64, 25 steps", "cpu"),
    *_sampler_rows("DiT-S/2", "DiT-S/2 at latent 32x32, batch 8, 4 steps", "cpu"),
    Row(
        "network forward, DiT-S/2, share of the matrix-product rate of the same run",
        "fp32 {fp32}, bf16 {bf16}",
        {dtype: ("dit_forward", "eager", "share_of_matmul", dtype, "DiT-S/2") for dtype in ("fp32", "bf16")},
    ),
    Row(
        "autoencoder's decoder, demo at 32 px and KL-f8 at 256 px, fp32",
        "{demo} and {klf8}",
        {
            "demo": ("decode", "ours", "rate", "fp32", "demo VAE, 32 px"),
            "klf8": ("decode", "ours", "rate", "fp32", "KL-f8, 256 px"),
        },
    ),
    Row(
        "`mgd3-fast distill --dataset mnist5k --ipc 10`, nothing cached; latents cached",
        "{first}; {again}, {peak} at most",
        {
            "first": _cli("none", "time"),
            "again": _cli("stored", "time"),
            "peak": _cli("none", "peak_resident"),
        },
    ),
    *_sampler_rows("DiT-S/2", "one GPU, DiT-S/2, batch 128", "cuda"),
    *_sampler_rows("DiT-XL/2", "one GPU, DiT-XL/2 at 256 px, batch 128", "cuda"),
)
