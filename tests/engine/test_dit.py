"""The DiT network against diffusers', its published sizes, and what the sampler relies on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mgd3_engine.dit import PRESET_NAMES, DiT, DiTConfig, dit_config, layers
from mgd3_engine.dit.layers import TokenLinear
from mgd3_engine.dit.layouts import from_diffusers
from mgd3_engine.dit.model import PatchEmbedder, timestep_sinusoids
from tests.fakes.random_networks import dit_inputs, random_diffusers_dit, random_dit, randomised

# hidden 96 in 3 heads, and the published S/2 at 256 px
SMALL = DiTConfig(input_size=8, patch_size=2, hidden_size=96, depth=2, num_heads=3, num_classes=10)
S2 = dit_config("DiT-S/2")
PUBLISHED_MILLIONS = {"S/2": 33, "B/2": 130, "L/2": 458, "XL/2": 675}  # Peebles & Xie 2023, Table 1


@pytest.mark.parametrize(
    "config",
    [SMALL, replace(SMALL, frequency_shift=1), S2],
    ids=["small", "small with diffusers' sinusoids", "S/2"],
)
def test_equals_diffusers(config: DiTConfig) -> None:
    twin = random_diffusers_dit(config)
    dit = DiT(config).eval()
    dit.load_state_dict({**from_diffusers(twin.state_dict()), "pos_embed": dit.pos_embed})
    x, timestep, class_ids = dit_inputs(config, rows=2)
    with torch.no_grad():
        got = dit(x, timestep, class_ids)
        want = twin(x, timestep, class_ids, return_dict=False)[0]
    assert want.std() > 0.1
    assert (got - want).abs().max() <= 3e-6 * want.abs().max()


def test_position_embedding_is_diffusers() -> None:
    dit = DiT(SMALL)
    assert torch.equal(dit.pos_embed, random_diffusers_dit(SMALL).pos_embed.pos_embed)
    # the first half of a token's features tells its column, the second its row
    grid = dit.pos_embed.view(4, 4, 2, 48)
    assert torch.equal(grid[0, :, 0], grid[3, :, 0])
    assert torch.equal(grid[:, 0, 1], grid[:, 3, 1])
    assert not torch.equal(grid[0, :, 1], grid[3, :, 1])


def test_sinusoids_against_float64() -> None:
    timestep = torch.tensor([0, 1, 20, 510, 750, 752, 999])
    k = torch.arange(128, dtype=torch.float64)
    angle = timestep[:, None].double() * 10000.0 ** (-k / 128)
    want = torch.cat([angle.cos(), angle.sin()], dim=1)
    # an angle of 999 rad in float32 is off by up to 999 * 2^-24 twice over
    assert (timestep_sinusoids(timestep).double() - want).abs().max() < 2e-4
    assert torch.equal(timestep_sinusoids(timestep), timestep_sinusoids(timestep.float()))


def test_bfloat16_network_tells_neighbouring_timesteps_apart() -> None:
    # bfloat16 rounds 750 to 752, so a network that casts timesteps would not notice the difference
    assert torch.tensor(750).to(torch.bfloat16) == torch.tensor(752).to(torch.bfloat16)
    timestep = torch.tensor([750, 752])
    dit = random_dit(S2)
    embedded = dit.t_embedder(timestep, torch.float32)
    half = dit.bfloat16().t_embedder(timestep, torch.bfloat16)
    assert not torch.equal(half[0], half[1])
    step = embedded[1] - embedded[0]
    assert torch.nn.functional.cosine_similarity((half[1] - half[0]).float(), step, dim=0) > 0.99


def test_half_precision_timesteps_are_refused() -> None:
    with pytest.raises(ValueError, match=r"timestep must be .* got torch.bfloat16"):
        timestep_sinusoids(torch.tensor([750.0], dtype=torch.bfloat16))


def test_bfloat16_is_close_to_float32() -> None:
    dit = random_dit(replace(S2, depth=4))
    x, timestep, class_ids = dit_inputs(S2, rows=2)
    want = dit(x, timestep, class_ids)
    got = dit.bfloat16()(x.bfloat16(), timestep, class_ids)
    assert got.dtype == torch.bfloat16
    assert (got - want).square().mean().sqrt() < 0.02 * want.square().mean().sqrt()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", [SMALL, replace(S2, depth=2)], ids=["small", "S/2 of two blocks"])
def test_bytes_of_a_row_do_not_depend_on_its_place(config: DiTConfig, dtype: torch.dtype) -> None:
    dit = random_dit(config).to(dtype)
    x, timestep, class_ids = dit_inputs(config, rows=8)
    x = x.to(dtype)
    order = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    first = dit(x, timestep, class_ids)
    assert torch.equal(dit(x[order], timestep[order], class_ids[order]), first[order])
    others = torch.randn_like(x)
    others[0] = x[0]
    assert torch.equal(dit(others, timestep, class_ids)[0], first[0])


def test_new_network_predicts_zero_and_trains() -> None:
    torch.manual_seed(0)
    dit = DiT(SMALL)
    x, timestep, class_ids = dit_inputs(SMALL, rows=4)
    output = dit(x, timestep, class_ids)
    assert output.shape == (4, 8, 8, 8)
    assert not output.any()
    (output - 1).square().mean().backward()
    assert dit.final_layer.linear.weight.grad is not None
    assert dit.final_layer.linear.weight.grad.any()
    assert dit.pos_embed.grad is None


def test_initialisation_is_the_papers() -> None:
    torch.manual_seed(0)
    dit = DiT(S2)
    for name, parameter in dit.named_parameters():
        if "adaLN" in name or name.startswith("final_layer") or name.endswith("bias"):
            assert not parameter.any(), name
    for layer in (dit.y_embedder.embedding_table, dit.t_embedder.mlp[0], dit.t_embedder.mlp[2]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    bound = (6 / (384 + 3 * 384)) ** 0.5
    assert 0.99 * bound < dit.blocks[0].attn.qkv.weight.abs().max() <= bound
    patch_bound = (6 / (4 * 2 * 2 + 384)) ** 0.5
    assert 0.99 * patch_bound < dit.x_embedder.proj.weight.abs().max() <= patch_bound


def test_modulations_of_all_steps_at_once() -> None:
    dit = random_dit(SMALL)
    x, timestep, class_ids = dit_inputs(SMALL, rows=4)
    modulation = dit.modulation(timestep, class_ids)
    assert modulation.shape == (4, 2 * 576 + 192)
    assert torch.equal(dit.denoise(x, modulation), dit(x, timestep, class_ids))


@pytest.mark.parametrize(("learn_sigma", "channels"), [(True, 8), (False, 4)])
def test_output_channels(learn_sigma: bool, channels: int) -> None:
    config = replace(SMALL, learn_sigma=learn_sigma)
    output = DiT(config)(*dit_inputs(config, rows=3))
    assert output.shape == (3, channels, 8, 8)
    assert DiT(config)(*(tensor[:0] for tensor in dit_inputs(config, rows=3))).shape == (0, channels, 8, 8)


def test_wrong_latent_shape_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"x must be latents of shape .* got \[2, 4, 16, 16\]"):
        DiT(SMALL)(torch.zeros(2, 4, 16, 16), torch.zeros(2), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("image_size", [256, 512])
@pytest.mark.parametrize("name", PRESET_NAMES)
def test_every_published_size_builds(name: str, image_size: int) -> None:
    with torch.device("meta"):
        config = dit_config(name, image_size=image_size)
        dit = DiT(config)
        side = image_size // 8
        x = torch.empty(2, 4, side, side)
        output = dit(x, torch.empty(2, dtype=torch.int64), torch.empty(2, dtype=torch.int64))
    assert output.shape == (2, 8, side, side)
    assert config.null_class == dit.null_class == 1000
    published = PUBLISHED_MILLIONS.get(name.removeprefix("DiT-"))
    if published is not None:
        trained = sum(parameter.numel() for parameter in dit.parameters() if parameter.requires_grad)
        assert trained / 1e6 == pytest.approx(published, abs=0.9)


def test_xl_forward_is_237_gflop() -> None:
    with torch.device("meta"):
        config = dit_config("DiT-XL/2")
        dit = DiT(config)
        x = torch.empty(1, 4, 32, 32)
        with FlopCounterMode(display=False) as counter:
            dit(x, torch.empty(1, dtype=torch.int64), torch.empty(1, dtype=torch.int64))
    assert counter.get_total_flops() == pytest.approx(237.2428e9, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 3}, "input_size must be a multiple of patch_size 3, got 8"),
        ({"num_heads": 5}, "hidden_size must be a multiple of 4 and of num_heads 5, got 96"),
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"depth": -1}, "depth must be at least 0, got -1"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must be positive, got 0.0"),
        ({"class_dropout_prob": 1.5}, "class_dropout_prob must be from 0 to 1, got 1.5"),
        ({"frequency_shift": 2}, "frequency_shift must be 0 or 1, got 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_configuration(change: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(SMALL, **change)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "image_size", "message"),
    [
        ("DiT-M/2", 256, "name must be one of DiT-S/2, .* got 'DiT-M/2'"),
        ("DiT-XL/8", 100, "image_size must be a multiple of 64 for DiT-XL/8, got 100"),
    ],
)
def test_bad_preset(name: str, image_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dit_config(name, image_size=image_size)


def test_network_without_memory_needs_no_slow_import() -> None:
    # torch loads its decompositions, 2 s, for the first `arange` or `normal_` on the meta device
    code = (
        "import sys, torch; from mgd3_engine.dit import DiT, dit_config; before = set(sys.modules)\n"
        "with torch.device('meta'): dit = DiT(dit_config('DiT-S/2'))\n"
        "assert all(parameter.is_meta for parameter in dit.parameters())\n"
        "print(len(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 20


def test_with_and_without_a_gradient_agree() -> None:
    """Without one other operations compute the same: oneDNN's on a CPU, our kernels on CUDA."""
    for dtype, bound in ((torch.float32, 2e-6), (torch.bfloat16, 1e-2), (torch.float64, 1e-12)):
        dit = random_dit(SMALL).to(dtype)
        x, timestep, class_ids = dit_inputs(SMALL, rows=8)
        with torch.no_grad():
            plain = dit(x.to(dtype), timestep, class_ids)
        recorded = dit(x.to(dtype).requires_grad_(), timestep, class_ids)
        assert recorded.requires_grad
        assert float((plain - recorded.detach()).norm() / plain.norm()) < bound, dtype


def test_guidance_may_differentiate_through_a_frozen_network() -> None:
    dit = random_dit(SMALL)
    x, timestep, class_ids = dit_inputs(SMALL, rows=2)
    x.requires_grad_()
    (slope,) = torch.autograd.grad(dit(x, timestep, class_ids).square().sum(), x)
    step = 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ahead, behind = (dit(x + sign * step, timestep, class_ids).square().sum() for sign in (1, -1))
    assert float((slope * step).sum()) == pytest.approx(float(ahead - behind) / 2, rel=1e-2)


def test_bfloat16_attention_in_slices_is_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows are attended at once, on a CPU: 1, 2 or all of 6."""
    layer = random_dit(SMALL).bfloat16().blocks[0].attn
    tokens = torch.randn(6, 16, 96, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        want = layer.float()(tokens.float())
        layer.bfloat16()
        results = []
        for size in (1, 2 * 3 * 16 * 16 * 2, layers.SCORE_BYTES):
            monkeypatch.setattr(layers, "SCORE_BYTES", size)
            results.append(layer(tokens))
    assert float((results[0] - want).norm() / want.norm()) < 1e-2
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "with a gradient"])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patch_embedding_is_the_convolution_of_the_checkpoints(patch: int, recorded: bool) -> None:
    embedder = randomised(PatchEmbedder(replace(SMALL, patch_size=patch))).double()
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    places = torch.randn(1, (8 // patch) ** 2, 96, dtype=torch.float64)
    want = embedder.proj(x).flatten(2).transpose(1, 2) + places
    got = embedder(x.requires_grad_(recorded), places)
    assert got.is_contiguous()
    assert (got - want).abs().max() < 1e-14 * want.abs().max() * 16


def test_output_is_left_in_patches() -> None:
    dit = random_dit(SMALL)
    x, timestep, class_ids = dit_inputs(SMALL, rows=3)
    modulation = dit.modulation(timestep, class_ids)
    patches = dit.denoise_patches(x, modulation)
    assert patches.shape == (3, 8, 4, 2, 4, 2)
    assert patches.stride()[1] == 1, "the channels of a pixel do not lie side by side"
    assert patches.untyped_storage().nbytes() == patches.numel() * 4, "patches were copied"
    assert torch.equal(patches.reshape(3, 8, 8, 8), dit.denoise(x, modulation))


@contextmanager
def cuda_without_a_gpu(dtype: torch.dtype) -> Iterator[tuple[TokenLinear, Tensor]]:
    """A linear map and its tokens as tensors of shape and device alone; yields them with the mode on."""
    layer = TokenLinear(16, 24)
    with FakeTensorMode():
        layer.weight, layer.bias = (
            nn.Parameter(torch.empty(shape, device="cuda", dtype=dtype), requires_grad=False)
            for shape in ((24, 16), (24,))
        )
        yield layer, torch.empty(2, 3, 16, device="cuda", dtype=dtype)


class Operations(TorchDispatchMode):
    """Names the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_gelu_is_in_the_products_epilogue_in_half_precision_on_cuda(dtype: torch.dtype) -> None:
    with torch.no_grad(), cuda_without_a_gpu(dtype) as (layer, tokens), Operations() as operations:
        mapped = layer.gelu(tokens)
    assert (mapped.shape, mapped.dtype) == ((2, 3, 24), dtype)
    fused = dtype != torch.float32
    assert ("_addmm_activation" in operations.seen, "gelu" in operations.seen) == (fused, not fused)


def test_gelu_has_a_pass_of_its_own_where_the_epilogue_will_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with cuda_without_a_gpu(torch.bfloat16) as (layer, tokens):
        assert layers.uses_gelu_epilogue(tokens, layer.weight)
        for other in (torch.empty_like(tokens, dtype=torch.float16), tokens.new_empty(0, 3, 16)):
            assert not layers.uses_gelu_epilogue(other, layer.weight)
        assert not layers.uses_gelu_epilogue(tokens.requires_grad_(), layer.weight)
        with torch.no_grad():
            assert layers.uses_gelu_epilogue(tokens, layer.weight)
            monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
            assert not layers.uses_gelu_epilogue(tokens, layer.weight)
    monkeypatch.undo()
    assert not layers.uses_gelu_epilogue(torch.ones(1, 2, 16).half(), torch.ones(24, 16).half())


def test_autocast_leaves_the_dtypes_to_torch() -> None:
    dit = random_dit(SMALL)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = dit(*dit_inputs(SMALL, rows=2))
    want = dit(*dit_inputs(SMALL, rows=2))
    assert output.dtype == torch.bfloat16
    assert 1e-4 < float((output - want).norm() / want.norm()) < 2e-2
