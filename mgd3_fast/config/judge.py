"""What a judgement of a generator is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import check_folder
from mgd3_fast.config.documented import documented
from mgd3_fast.config.encode import EncodeConfig
from mgd3_fast.config.fields import option, place, seed_option, whole


@documented
@dataclass(frozen=True, kw_only=True)
class JudgeConfig(EncodeConfig):
    """What `judge_generator` is asked to do."""

    samples: int = whole(
        "samples that are drawn in all, at most 50 a class; with more than 50 classes 50 of them are judged",
        default=300,
        lowest=2,
    )
    seed: int = seed_option("seed of the samples and of the classifier")
    out: Path | str | None = option(
        "folder for samples.png and reconstructions.png (default: no pictures; a generator folder keeps the"
        " verdict in its generator.json either way)",
        default=None,
        parse=place,
        metavar="PATH",
        check=check_folder,
    )
