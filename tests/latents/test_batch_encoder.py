"""Batches through the autoencoder: order, padding, what runs ahead of what, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mgd3_fast.errors import UserError
from mgd3_fast.latents.encoder import BatchEncoder
from tests.fakes.encoders import PoolingEncoder

SHAPE = (4, 2, 2)


def images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_batches_come_back_in_order_without_padding(device: str) -> None:
    batches = [images(count, seed) for seed, count in enumerate((8, 8, 3, 1))]
    encoder = PoolingEncoder()
    got = list(BatchEncoder(encoder, SHAPE, torch.device(device)).run(batches, 8, "a test"))
    assert encoder.batch_rows == [8] * 4
    for batch, latents in zip(batches, got, strict=True):
        assert latents.device.type == "cpu"
        assert torch.allclose(latents, PoolingEncoder().encode(batch), rtol=0, atol=1e-6)


def test_next_batch_is_under_way_before_a_result_is_taken() -> None:
    encoder = PoolingEncoder()
    prepared: list[int] = []

    def batches() -> Iterator[Tensor]:
        for number in range(4):
            prepared.append(number)
            yield images(8, number)

    results = BatchEncoder(encoder, SHAPE, torch.device("cpu")).run(batches(), 8, "a test")
    next(results)
    assert prepared == [0, 1]
    assert len(encoder.batch_rows) == 2
    assert len(list(results)) == 3


def test_no_batches_no_results() -> None:
    assert list(BatchEncoder(PoolingEncoder(), SHAPE, torch.device("cpu")).run([], 8, "a test")) == []


def test_wrong_shape_is_told() -> None:
    with pytest.raises(UserError, match=r"autoencoder must give latents \(4, 3, 3\), got \(4, 2, 2\)"):
        list(BatchEncoder(PoolingEncoder(), (4, 3, 3), torch.device("cpu")).run([images(1)], 8, "a test"))
