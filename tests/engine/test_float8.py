"""8-bit linear maps: quantisation and product against float64, and what they cost in accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bench.gpu.interpreter_casts import rounding_as_a_gpu
from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule
from mgd3_engine.backends import BackendRequest, create_backend
from mgd3_engine.dit import DiT, DiTConfig, dit_config, float8, float8_linears, model
from mgd3_engine.dit.float8 import Float8Linear, missing_float8
from mgd3_engine.dit.layers import TokenLinear
from mgd3_fast import DistillConfig, distill
from mgd3_fast.run import sources
from mgd3_kernels import quantise_rows
from mgd3_kernels.quantise import FLOAT8, LARGEST
from tests.fakes.random_networks import dit_inputs, random_dit
from tests.fakes.recording import record_phases

CPU = torch.device("cpu")
SMALL = DiTConfig(input_size=8, patch_size=2, hidden_size=96, depth=2, num_heads=3, num_classes=10)
# Relative root mean square. A product of two operands rounded to 3 mantissa bits: measured 3.7e-2 on normal
# numbers at every layer's shape; against the same 8-bit operands in float64, 1.7e-3, bfloat16's last place.
LAYER_ERROR, PRODUCT_ERROR = (0.03, 0.042), 3e-3

pytestmark = pytest.mark.skipif(bool(missing_float8(CPU)), reason="this torch has no 8-bit product on a CPU")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_rms(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def every_float8() -> Tensor:
    """All finite numbers of the format, ascending, from their bit patterns."""
    codes = torch.arange(256, dtype=torch.uint8)
    sign, exponent, mantissa = codes >> 7, (codes >> 3 & 15).double(), (codes & 7).double()
    small = mantissa / 8 * 2.0**-6
    large = (1 + mantissa / 8) * torch.exp2(exponent - 7)
    values = torch.where(exponent == 0, small, large) * (1 - 2 * sign.double())
    return values[(codes & 127) != 127].unique()


def linear(in_features: int, out_features: int) -> TokenLinear:
    layer = TokenLinear(in_features, out_features).requires_grad_(False)
    layer.bias.copy_(normal(out_features, seed=1))
    return layer.bfloat16()


def test_quantised_rows_are_the_nearest_numbers_of_the_format() -> None:
    rows = normal(6, 512)
    rows[1] *= 1e-3
    rows[2] *= 1e4
    rows[3, 7] = 100.0  # an outlier takes the scale of its row
    rows[4] = 0.0
    quantised, scale = quantise_rows(rows)
    assert quantised.dtype == FLOAT8
    table = every_float8()
    assert table.max() == LARGEST
    exact = rows.double() / scale.double()
    nearest = (exact[..., None] - table).abs().amin(-1)
    assert torch.equal(
        (quantised.double()[..., None] == table).sum(-1), torch.ones(6, 512, dtype=torch.int64)
    )
    # the quotient is rounded to float32 first, which decides ties
    assert ((quantised.double() - exact).abs() - nearest).max() < 1e-4
    assert (quantised.double().abs().amax(1)[[0, 1, 2, 3, 5]] == LARGEST).all()
    assert not quantised[4].double().any()
    assert float((quantised.double() * scale - rows)[3].abs().max()) <= 16 * float(scale[3])


def test_every_row_has_its_own_scale() -> None:
    rows = normal(4, 64).bfloat16()
    together = quantise_rows(rows)
    for row in range(4):
        alone = quantise_rows(rows[row : row + 1])
        assert torch.equal(alone[0][0].float(), together[0][row].float())
        assert torch.equal(alone[1][0], together[1][row])


@pytest.mark.parametrize(
    ("in_features", "out_features"), [(384, 1152), (384, 384), (384, 1536), (1536, 384)], ids=str
)
def test_linear_against_float64(in_features: int, out_features: int) -> None:
    layer = linear(in_features, out_features)
    tokens = normal(2, 40, in_features, seed=2).bfloat16()
    quantised = Float8Linear(layer)
    rows, scale = quantise_rows(tokens)
    got = quantised(quantise_rows(tokens))
    assert got.dtype == torch.bfloat16
    assert got.shape == (2, 40, out_features)
    exact = tokens.double() @ layer.weight.double().t() + layer.bias.double()
    weight = quantised.weight.double() * quantised.scale.double()
    emulated = (rows.double() * scale.double()) @ weight.t() + layer.bias.double()
    assert relative_rms(got, emulated) < PRODUCT_ERROR
    without_bias = relative_rms(got - layer.bias, exact - layer.bias)
    print(f"{in_features} to {out_features}: {without_bias:.2e} of the exact product")
    assert LAYER_ERROR[0] < without_bias < LAYER_ERROR[1]


def test_network_keeps_all_but_the_blocks_linear_maps() -> None:
    dit = random_dit(SMALL).bfloat16()
    quantised = float8_linears(dit)
    assert isinstance(quantised, DiT)
    replaced = [name for name, layer in quantised.named_modules() if isinstance(layer, Float8Linear)]
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert replaced == [f"blocks.{block}.{layer}" for block in range(2) for layer in layers]
    weights = dit.state_dict()
    for name, tensor in quantised.state_dict().items():
        if not any(name.startswith(f"{layer}.") for layer in replaced):
            assert tensor.data_ptr() == weights[name].data_ptr(), name
    assert isinstance(dit.blocks[0].attn.qkv, TokenLinear), "the given network must stay as it is"
    x, timestep, class_ids = dit_inputs(SMALL, rows=4)
    modulation = quantised.modulation(timestep, class_ids)
    assert torch.equal(modulation, dit.modulation(timestep, class_ids))
    with torch.no_grad():
        together = quantised(x.bfloat16(), timestep, class_ids)
        assert torch.equal(quantised.denoise(x.bfloat16(), modulation), together)


def test_network_against_float32() -> None:
    """Each linear map is off by 4%, but gates are small: the sum by little more than bfloat16's error."""
    config = replace(dit_config("DiT-S/2"), depth=4)
    dit = random_dit(config)
    x, timestep, class_ids = dit_inputs(config, rows=2)
    with torch.no_grad():
        want = dit(x, timestep, class_ids)
        dit = dit.bfloat16()
        half = relative_rms(dit(x.bfloat16(), timestep, class_ids), want)
        eight = relative_rms(float8_linears(dit)(x.bfloat16(), timestep, class_ids), want)
    print(f"relative rms of the output: bf16 {half:.2e}, fp8 {eight:.2e}")
    assert half < eight < 0.012  # measured 7.1e-3 and 7.9e-3


def test_bytes_of_a_row_do_not_depend_on_its_place() -> None:
    dit = float8_linears(random_dit(SMALL).bfloat16())
    x, timestep, class_ids = dit_inputs(SMALL, rows=8)
    order = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    with torch.no_grad():
        first = dit(x.bfloat16(), timestep, class_ids)
        assert torch.equal(dit(x.bfloat16()[order], timestep[order], class_ids[order]), first[order])


def test_the_networks_kernels_against_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way through the kernels, which a GPU takes, in Triton's interpreter."""
    pytest.importorskip("triton")
    dit = float8_linears(random_dit(SMALL).bfloat16())
    x, timestep, class_ids = dit_inputs(SMALL, rows=2)
    called: list[str] = []

    def seen(module: ModuleType, name: str) -> None:
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, **kw: called.append(name) or function(*args, **kw))

    with torch.no_grad(), rounding_as_a_gpu():
        want = dit(x.bfloat16(), timestep, class_ids)
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        for module in (model, float8):
            monkeypatch.setattr(module, "runs_kernels", lambda *tensors: True)
        for name in ("modulated_norm_float8", "gated_residual_norm_float8", "gated_residual_norm"):
            seen(model, name)
        for name in ("quantise_heads", "gelu_quantise"):
            seen(float8, name)
        got = dit(x.bfloat16(), timestep, class_ids)
    # Two blocks: a first norm, three between branches, the last one for the last layer, in bfloat16.
    residual, block = (
        "gated_residual_norm_float8",
        ["quantise_heads", "gated_residual_norm_float8", "gelu_quantise"],
    )
    assert called == ["modulated_norm_float8", *block, residual, *block, "gated_residual_norm"]
    assert relative_rms(got, want) < 8e-3


def test_phases_can_be_captured() -> None:
    """Recorded and run again, as CUDA graphs are, on other images: the bytes of running step by step."""
    dit = float8_linears(random_dit(SMALL).bfloat16())

    def sampler(graphs: str) -> GuidedSampler:
        return GuidedSampler(
            dit,
            schedule=NoiseSchedule.linear(),
            steps=4,
            null_class=SMALL.null_class,
            cfg_channels=3,
            guidance=ModeGuidance(scale=0.1, t_stop=2),
            dtype=torch.bfloat16,
            batch_size=2,
            graphs=graphs,
        )

    recorded, plain = sampler("auto"), sampler("off")
    recorder = record_phases(recorded)
    for seed in (0, 1):
        images = torch.tensor([seed, 3]), normal(2, 4, 8, 8, seed=seed), torch.tensor([7, 8]) + seed
        assert torch.equal(recorded.sample(*images), plain.sample(*images))
    assert [phase.replays for phase in recorder.phases] == [1, 1]  # the first call runs, the second replays


def test_an_infinity_reaches_the_output() -> None:
    dit = float8_linears(random_dit(SMALL).bfloat16())
    x, timestep, class_ids = dit_inputs(SMALL, rows=2)
    x[1, 0, 0, 0] = torch.inf
    with torch.no_grad():
        rows_finite = dit(x.bfloat16(), timestep, class_ids).isfinite().flatten(1).all(1)
    assert rows_finite.tolist() == [True, False]


def test_a_gradient_is_refused() -> None:
    dit = float8_linears(random_dit(SMALL).bfloat16())
    x, timestep, class_ids = dit_inputs(SMALL, rows=2)
    with pytest.raises(ValueError, match="precision must not be fp8 where a gradient is needed"):
        dit(x.bfloat16().requires_grad_(), timestep, class_ids)


def test_other_dtypes_and_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dit must be bfloat16 for fp8 linear maps, got torch\.float32"):
        float8_linears(random_dit(SMALL))
    odd = random_dit(replace(SMALL, hidden_size=72)).bfloat16()
    with pytest.raises(ValueError, match="multiples of 16 features for fp8, got 72 in and 216 out"):
        float8_linears(odd)
    with pytest.raises(ValueError, match=r"linear must be bfloat16, got torch\.float16"):
        Float8Linear(TokenLinear(16, 16).half())


def test_a_gpu_without_8_bit_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert missing_float8(torch.device("cuda:0")) == "has capability 8.6, below 8.9"


def test_a_torch_without_rowwise_scales_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> Tensor:
        raise RuntimeError("scale_a must be a scalar\nand more")

    dit = random_dit(SMALL).bfloat16()
    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    with pytest.raises(
        ValueError, match=r"precision must be bf16 or fp32 on cpu, .* scale_a must be a scalar"
    ):
        float8_linears(dit)


@pytest.mark.parametrize("backend", ["tensorrt", "onnxruntime"])
def test_exporting_backends_refuse_it(backend: str) -> None:
    dit = float8_linears(random_dit(SMALL).bfloat16())
    request = BackendRequest(denoiser=dit, device=CPU, dtype=torch.bfloat16, rows=8)
    with pytest.raises(ValueError, match=r"must|needs"):
        create_backend(backend, request)


@pytest.mark.usefixtures("cache")
def test_manifest_says_fp8(
    tiny_generator: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run with 8-bit products on the CPU, which the command line refuses."""
    monkeypatch.setattr(sources, "resolve_precision", lambda name, device: name)
    settings = {"dataset": str(pictures), "generator": str(tiny_generator), "ipc": 1, "device": "cpu"}
    eight, half = (
        distill(DistillConfig(**settings, out=tmp_path / name, precision=name)).manifest
        for name in ("fp8", "bf16")
    )
    assert eight is not None
    assert half is not None
    assert (eight["settings"]["precision"], half["settings"]["precision"]) == ("fp8", "bf16")
    assert [one["sha256"] for one in eight["images"]] != [one["sha256"] for one in half["images"]]
