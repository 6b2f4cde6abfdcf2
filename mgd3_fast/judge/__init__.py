"""Is a generator any good? A verdict from reconstructions, samples and a quick classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mgd3_fast.config.judge import JudgeConfig
from mgd3_fast.first_use import loaded_on_first_use

if TYPE_CHECKING:
    from mgd3_fast.judge.judging import is_about, judge_generator

__all__ = ["JudgeConfig", "is_about", "judge_generator"]

__getattr__ = loaded_on_first_use(
    __name__, is_about="mgd3_fast.judge.judging", judge_generator="mgd3_fast.judge.judging"
)
