"""Backend onnxruntime: eager's numbers from torch's memory, and clear words where it cannot run."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mgd3_engine import GuidedSampler, ModeGuidance, NoiseSchedule, image_seeds
from mgd3_engine.backends import BackendRequest, Denoiser, create_backend
from mgd3_engine.dit import DiTConfig
from mgd3_engine.export import cached_onnx
from mgd3_engine.installing import install_command
from tests.fakes.random_networks import dit_inputs, random_dit

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

CONFIG = DiTConfig(input_size=8, patch_size=2, hidden_size=32, depth=1, num_heads=2, num_classes=10)
# Largest difference from eager. A network call, outputs of deviation 0.46: measured 8.0e-7. Latents after 10
# steps, over their root mean square: measured 3.3e-6.
CALL_BOUND, LATENT_BOUND = 4e-6, 2e-5
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def denoiser(cache_of_session: Path) -> Denoiser:
    return create_backend("onnxruntime", request_for(random_dit(CONFIG), cache_of_session))[1]


def request_for(network: Any, cache_dir: Path, **changes: Any) -> BackendRequest:
    settings = {"device": CPU, "dtype": torch.float32, "rows": 16, "cache_dir": cache_dir, **changes}
    return BackendRequest(denoiser=network, **settings)


@pytest.mark.parametrize("rows", [1, 2, 7, 16, 33])
def test_equals_eager_for_any_rows(denoiser: Denoiser, rows: int) -> None:
    inputs = dit_inputs(CONFIG, rows)
    error = float((denoiser(*inputs) - random_dit(CONFIG)(*inputs)).abs().max())
    print(f"{rows} rows: {error:.1e}")
    assert error < CALL_BOUND


@pytest.mark.parametrize("rows", [16, 32])
def test_bytes_do_not_depend_on_a_rows_place(denoiser: Denoiser, rows: int) -> None:
    inputs = dit_inputs(CONFIG, rows)
    together = denoiser(*inputs)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    assert torch.equal(denoiser(*(one[order] for one in inputs)), together[order])
    alone = denoiser(*(one[3:4].expand_as(one) for one in inputs))
    assert torch.equal(alone, together[3:4].expand_as(alone))


def test_output_is_memory_of_its_own(denoiser: Denoiser) -> None:
    x, timestep, class_ids = dit_inputs(CONFIG, 4)
    first = denoiser(x, timestep, class_ids)
    kept = first.clone()
    denoiser(-x, timestep, class_ids)
    assert torch.equal(first, kept)


def test_strided_input(denoiser: Denoiser) -> None:
    x, timestep, class_ids = dit_inputs(CONFIG, 8)
    strided = x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    assert torch.equal(denoiser(strided, timestep, class_ids), denoiser(x, timestep, class_ids))
    assert torch.equal(
        denoiser(x[::2], timestep[::2], class_ids[::2]),
        denoiser(x[::2].clone(), timestep[::2].clone(), class_ids[::2].clone()),
    )


def test_whole_run_equals_eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sampler gives no folder to keep files in: the graph is gone before the first step."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes = torch.randn(11, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    images = (torch.arange(11) % 10, modes, image_seeds(0, [("a", k) for k in range(11)]))

    def sampled(backend: str) -> torch.Tensor:
        sampler = GuidedSampler(
            random_dit(CONFIG),
            schedule=NoiseSchedule.linear(),
            steps=10,
            null_class=CONFIG.null_class,
            cfg_channels=3,
            guidance=ModeGuidance(t_stop=5),
            batch_size=8,
            backend=backend,
        )
        assert sampler.backend == backend
        assert list(tmp_path.iterdir()) == []
        return sampler.sample(*images)

    eager = sampled("eager")
    error = float((sampled("onnxruntime") - eager).abs().max() / eager.square().mean().sqrt())
    print(f"10 steps: {error:.1e} of the root mean square")
    assert error < LATENT_BOUND


def test_runs_on_as_many_threads_as_torch(cache_of_session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: opened.append((options, providers))
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    create_backend("onnxruntime", request_for(random_dit(CONFIG), cache_of_session))
    ((options, providers),) = opened
    assert options.intra_op_num_threads == 3
    assert providers == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("network", "changes", "words"),
    [
        pytest.param(
            lambda x, t, c: x,
            {},
            "denoiser must be a mgd3_engine.dit.DiT for backend onnxruntime",
            id="function",
        ),
        pytest.param(
            random_dit(CONFIG).bfloat16(),
            {"dtype": torch.bfloat16},
            "backend onnxruntime multiplies no bf16 matrices on a CPU",
            id="bf16 on a CPU",
        ),
        pytest.param(
            random_dit(CONFIG),
            {"device": CUDA},
            "onnxruntime has no provider for cuda here, only .*CPUExecutionProvider.*onnxruntime-gpu",
            id="CUDA without its provider",
        ),
    ],
)
def test_refusals(
    network: Any, changes: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ValueError, match=words) as refusal:
        create_backend("onnxruntime", request_for(network, tmp_path, **changes))
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_wrong_calls(denoiser: Denoiser) -> None:
    x, timestep, class_ids = dit_inputs(CONFIG, 2)
    with pytest.raises(
        ValueError, match=r"x must be latents of shape \[R, \(4, 8, 8\)\], got \[2, 4, 8, 4\]"
    ):
        denoiser(x[..., :4], timestep, class_ids)
    with pytest.raises(ValueError, match="x must not require a gradient on backend onnxruntime"):
        denoiser(x.requires_grad_(), timestep, class_ids)


def test_cuda_provider_computes_in_float32(cache_of_session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: opened.append(providers)
    )
    network = request_for(random_dit(CONFIG), cache_of_session, device=torch.device("cuda", 1))
    create_backend("onnxruntime", network)
    ((cuda, cpu),) = opened
    assert cuda == ("CUDAExecutionProvider", {"device_id": 1, "use_tf32": "0"})
    assert cpu == "CPUExecutionProvider"


def test_damaged_graph_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no graph")
    monkeypatch.setattr("mgd3_engine.backends.onnxruntime.cached_onnx", lambda *_, **__: damaged)
    with pytest.raises(
        ValueError, match=r"ONNX Runtime .* cannot open graph .*damaged.onnx.* delete it"
    ) as refusal:
        create_backend("onnxruntime", request_for(random_dit(CONFIG), tmp_path))
    assert "\n" not in str(refusal.value)


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=re.escape(install_command("onnx"))):
        create_backend("onnxruntime", request_for(random_dit(CONFIG), tmp_path))


@pytest.mark.gpu
def test_on_a_gpu_with_its_provider(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime-gpu is not installed")
    network = request_for(random_dit(CONFIG).cuda(), tmp_path, device=CUDA)
    _, denoiser = create_backend("onnxruntime", network)
    assert cached_onnx(random_dit(CONFIG), tmp_path).is_file()
    inputs = dit_inputs(CONFIG, 16)
    output = denoiser(*(one.cuda() for one in inputs)).cpu()
    assert float((output - random_dit(CONFIG)(*inputs)).abs().max()) < 10 * CALL_BOUND
