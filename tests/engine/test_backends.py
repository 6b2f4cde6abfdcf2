"""Backends: chosen by name they run or raise; `auto` chooses and says so."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, backend_names, image_seeds
from mgd3_engine.backends import BackendRequest, create_backend
from mgd3_engine.dit import DiTConfig
from tests.fakes.random_networks import random_dit

# Largest difference over the root mean square, float32 on the CPU. Measured: 8.7e-6.
COMPILED_AGAINST_EAGER = 4e-5
TINY = DiTConfig(input_size=4, patch_size=2, hidden_size=16, depth=1, num_heads=2, num_classes=5)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


class ToyNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.classes = nn.Conv2d(4, 8, 3, padding=1), nn.Embedding(6, 4)
        self.requires_grad_(False)

    def forward(self, x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        shift = self.classes(class_ids) * torch.cos(timestep[:, None] * 0.01)
        return torch.tanh(self.mix(x + shift[:, :, None, None]))


def make_sampler(network, backend: str) -> GuidedSampler:
    return GuidedSampler(
        network,
        schedule=NoiseSchedule.linear(),
        steps=4,
        null_class=5,
        guidance=ModeGuidance(t_stop=1),
        batch_size=8,
        backend=backend,
    )


def request_for(denoiser, device=CPU) -> BackendRequest:
    return BackendRequest(denoiser=denoiser, device=device, dtype=torch.float32, rows=8)


def make_images(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    modes = torch.randn(count, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.arange(count) % 5, modes, image_seeds(0, [("a", k) for k in range(count)])


def test_eager_is_the_network_itself():
    network = ToyNet()
    assert create_backend("eager", request_for(network)) == ("eager", network)


def test_auto_is_eager_on_the_cpu_and_logs_why(caplog):
    with caplog.at_level(logging.INFO, logger="mgd3_engine.backends"):
        assert make_sampler(ToyNet(), "auto").backend == "eager"
    assert caplog.messages == ["backend auto is eager: no gain from compiling was measured on device cpu"]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: random_dit(TINY), "a DiT brings fused kernels of its own, and compiled it is no faster"),
        (ToyNet, "no gain from compiling was measured for this network; backend compiled tries it"),
    ],
    ids=["dit", "another network"],
)
def test_auto_on_cuda_compiles_nothing_without_a_measurement(caplog, make, reason):
    network = make()
    with caplog.at_level(logging.INFO, logger="mgd3_engine.backends"):
        assert create_backend("auto", request_for(network, CUDA)) == ("eager", network)
    assert caplog.messages == [f"backend auto is eager: {reason}"]


def test_a_named_backend_that_cannot_run_is_an_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"backend compiled needs a C\+\+ compiler \(no-such-compiler\)"):
        make_sampler(ToyNet(), "compiled")


def test_unknown_names_list_the_known_ones():
    assert backend_names() == ("eager", "compiled", "tensorrt", "onnxruntime")
    names = "auto, eager, compiled, tensorrt, onnxruntime"
    with pytest.raises(ValueError, match=f"backend must be one of {names}, got 'fast'"):
        make_sampler(ToyNet(), "fast")


@pytest.mark.slow
def test_compiled_equals_eager():
    network, images = ToyNet(), make_images(11)
    eager = make_sampler(network, "eager").sample(*images)
    sampler = make_sampler(network, "compiled")
    compiled = sampler.sample(*images)
    error = float((compiled - eager).abs().max() / eager.square().mean().sqrt())
    print(f"compiled against eager: {error:.1e} of the root mean square")
    assert error < COMPILED_AGAINST_EAGER
    assert torch.equal(sampler.sample(*images), compiled)


@pytest.mark.slow
def test_many_samplers_of_a_process_all_run_compiled():
    """Past 8 variants of one code object torch.compile runs the rest uncompiled, with a warning at most."""
    ids = torch.zeros(2, dtype=torch.int64)

    def denoiser(x: Tensor, timestep: Tensor, class_ids: Tensor) -> Tensor:
        return x @ x if torch.compiler.is_compiling() else -x

    for width in range(1, 13):
        _, run = create_backend("compiled", request_for(denoiser))
        assert (run(torch.ones(2, 4, width, width), ids, ids) == width).all()
