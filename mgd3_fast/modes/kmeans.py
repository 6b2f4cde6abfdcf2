"""K-means as the authors use it, and two variants; which runner runs it is chosen elsewhere.

Shape letters: n images of a class, N images of P classes end to end, K modes, C channels, h w latent size,
D = C*h*w.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from mgd3_fast.modes.clusters import few_distinct, member_means, nearest_samples, one_thread, shares
from mgd3_fast.modes.kmeans_runners import KMeansRunner, SklearnKMeans
from mgd3_fast.modes.mode_set import Modes

POOLED_SIDE = 8


class KMeansDiscovery:
    """Cluster centres: MGD3 section 4.1, K = IPC.

    Args:
        runner: What runs K-means; scikit-learn, as the authors do, by default.
        latent_shape: (C, h, w); of no use to this method.
    """

    def __init__(
        self, runner: KMeansRunner | None = None, latent_shape: tuple[int, int, int] | None = None
    ) -> None:
        self._runner = runner or SklearnKMeans()

    @property
    def on_device(self) -> bool:
        """Whether features are wanted on the runner's device, many classes in one call."""
        return self._runner.on_device

    def fit(self, features: Tensor, ipc: int, seed: int) -> Modes:
        """Cluster the latents of a class, as `ModeDiscovery.fit`; modes are in K-means' order.

        Where there are fewer than `ipc` distinct samples, these are the modes; see `few_distinct`.
        """
        return self.fit_many(features, (0, len(features)), ipc, seed)[0]

    def fit_many(self, features: Tensor, offsets: Sequence[int], ipc: int, seed: int) -> list[Modes]:
        """Cluster P classes in one call of the runner, each as `fit` would; their modes are on the CPU.

        Args:
            features: float32 or float16 [N, D], on the runner's device.
            offsets: P + 1 numbers; class p has rows offsets[p]..offsets[p + 1], at least ipc.
            ipc: K.
            seed: 0..2^32-1, the same for each class.

        Raises:
            ValueError: A class has fewer rows than ipc.
        """
        classes = [features[begin:end] for begin, end in pairwise(offsets)]
        least = min(len(samples) for samples in classes)
        if least < ipc:
            raise ValueError(f"ipc must be at most the {least} samples, got {ipc}")
        with one_thread():
            few = [few_distinct(samples, ipc, enough=ipc) for samples in classes]
            many = [samples for samples, modes in zip(classes, few, strict=True) if modes is None]
            if many and len(many) < len(classes):  # rare: else the features are not copied
                features = torch.cat(many)
            found = iter(self._fit_distinct(features, _offsets(many), ipc, seed) if many else ())
            return [modes if modes is not None else next(found) for modes in few]

    def _fit_distinct(self, features: Tensor, offsets: Sequence[int], ipc: int, seed: int) -> list[Modes]:
        """Modes of classes with at least `ipc` distinct samples each."""
        clusters = self._runner.cluster(features, offsets, ipc, seed)
        return [
            self._modes(features[begin:end], centers, clusters.labels[begin:end])
            for (begin, end), centers in zip(pairwise(offsets), clusters.centers, strict=True)
        ]

    def _modes(self, samples: Tensor, centers: Tensor, labels: Tensor) -> Modes:
        return _on_cpu(centers, shares(labels, len(centers)), nearest_samples(samples, centers))


class ClosestDiscovery(KMeansDiscovery):
    """The real latent nearest to each K-means centre (MGD3, Table 7, "closest sample").

    Where two centres share their nearest latent, the later one takes the nearest that is still free, so
    that no image is taken twice.
    """

    def _modes(self, samples: Tensor, centers: Tensor, labels: Tensor) -> Modes:
        rows = nearest_samples(samples, centers).tolist()
        for mode in range(1, len(rows)):
            if rows[mode] in rows[:mode]:
                taken = samples[rows[:mode]]
                copies = torch.stack([(samples == one).all(1) for one in taken]).any(0)
                free = torch.nonzero(~copies)[:, 0]
                rows[mode] = int(free[nearest_samples(samples[free], centers[mode : mode + 1])[0]])
        chosen = torch.tensor(rows, device=samples.device)
        return _on_cpu(samples[chosen], shares(labels, len(centers)), chosen)


class PooledDiscovery(KMeansDiscovery):
    """K-means on average-pooled latents; a mode is the mean of its members at full resolution.

    Latents are pooled to 8x8, or to half their size where they are no larger than that: 4x32x32 become 256
    numbers, which tell composition from texture. A class with fewer than `ipc` distinct pooled latents is
    clustered by its latents themselves.

    Args:
        runner: What runs K-means; scikit-learn by default.
        latent_shape: (C, h, w).

    Raises:
        ValueError: No latent shape.
    """

    def __init__(
        self, runner: KMeansRunner | None = None, latent_shape: tuple[int, int, int] | None = None
    ) -> None:
        super().__init__(runner)
        if latent_shape is None:
            raise ValueError("latent_shape must be (C, h, w) for kmeans-pooled, got None")
        self._latent_shape = latent_shape

    def _fit_distinct(self, features: Tensor, offsets: Sequence[int], ipc: int, seed: int) -> list[Modes]:
        classes = [features[begin:end] for begin, end in pairwise(offsets)]
        pooled = [self._pool(samples) for samples in classes]
        coarse = [few_distinct(points, ipc, enough=ipc) is not None for points in pooled]
        labels: dict[int, Tensor] = {}
        for whole, points in ((False, pooled), (True, classes)):
            chosen = [place for place, is_coarse in enumerate(coarse) if is_coarse == whole]
            if chosen:
                clustered = [points[place] for place in chosen]
                found = self._runner.cluster(torch.cat(clustered), _offsets(clustered), ipc, seed)
                sizes = [len(samples) for samples in clustered]
                labels.update(zip(chosen, torch.split(found.labels, sizes), strict=True))
        return [_of_members(samples, labels[place], ipc) for place, samples in enumerate(classes)]

    def _pool(self, samples: Tensor) -> Tensor:
        height, width = (min(POOLED_SIDE, -(-side // 2)) for side in self._latent_shape[1:])
        latents = samples.float().reshape(-1, *self._latent_shape)  # [n, C, h, w]
        return torch.nn.functional.adaptive_avg_pool2d(latents, (height, width)).flatten(1)


def _of_members(samples: Tensor, labels: Tensor, ipc: int) -> Modes:
    """Means of the clusters' members; an empty cluster repeats the mean of the largest one."""
    centers, weights = member_means(samples, labels, ipc), shares(labels, ipc)
    centers = torch.where((weights > 0)[:, None], centers, centers[weights.argmax()])
    return _on_cpu(centers, weights, nearest_samples(samples, centers))


def _offsets(classes: Sequence[Tensor]) -> list[int]:
    return list(accumulate((len(samples) for samples in classes), initial=0))


def _on_cpu(centers: Tensor, weights: Tensor, source_index: Tensor) -> Modes:
    return Modes(centers.float().cpu().contiguous(), weights.cpu(), source_index.cpu())
