"""Generators that are conditioned on text: the classes of a run come to them as prompts."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mgd3_engine import Denoiser
from mgd3_fast.datasets import Dataset
from mgd3_fast.errors import UserError
from mgd3_fast.generators.base import Generator
from mgd3_fast.generators.network import Network
from mgd3_fast.generators.prompts import ClassPrompts, class_prompts


class TextNetwork(Network):
    """A network that is conditioned on prompts."""

    @abstractmethod
    def for_prompts(self, prompts: ClassPrompts) -> TextNetwork:
        """Return the network whose class ids are those of these prompts, the null class's last."""


@dataclass(frozen=True, kw_only=True)
class TextGenerator(Generator):
    """A generator without classes of its own, until `for_prompts` gives it those of a run."""

    network: TextNetwork

    @property
    def conditioning(self) -> str:
        """What it is conditioned on, for messages."""
        return "any classes, by prompt"

    def denoiser(self, device: torch.device | str, dtype: torch.dtype) -> Denoiser:
        """Load the network of the run's classes, see `Generator.denoiser`.

        Raises:
            UserError: As there, or `for_prompts` was not called.
        """
        if self.prompts is None:
            raise UserError(
                f"generator must have classes of its own here, got {self.name}, which is conditioned on text"
                " and is for distill, encode, discover, metrics and report"
            )
        return super().denoiser(device, dtype)

    def for_prompts(self, prompts: ClassPrompts) -> TextGenerator:
        """Return the generator of these classes, the negative prompt being its null class."""
        N = len(prompts.class_names)
        return replace(
            self,
            prompts=prompts,
            class_names=prompts.class_names,
            num_classes=N,
            null_class=N,
            network=self.network.for_prompts(prompts),
        )


def for_run(
    generator: Generator,
    dataset: Dataset,
    *,
    prompts: Path | str | None = None,
    prompt_template: str | None = None,
    negative_prompt: str | None = None,
) -> Generator:
    """Make a generator ready for the classes of a run: one that is conditioned on text gets their prompts.

    Args:
        generator: Any.
        dataset: Its opened classes are the run's.
        prompts: See `class_prompts`, and so the others.
        prompt_template: What goes around a class's name.
        negative_prompt: What stands for no class.

    Returns:
        The generator.

    Raises:
        UserError: One of the options is given and the generator takes no text, or as `class_prompts`.
    """
    if isinstance(generator, TextGenerator):
        file = None if prompts is None else Path(prompts)
        return generator.for_prompts(
            class_prompts(dataset, file=file, template=prompt_template, negative=negative_prompt)
        )
    options = {"prompts": prompts, "prompt_template": prompt_template, "negative_prompt": negative_prompt}
    for name, value in options.items():
        if value is not None:
            raise UserError(
                f"{name} must be left out with generator {generator.name}, which takes no text, got"
                f" {str(value)!r}"
            )
    return generator
