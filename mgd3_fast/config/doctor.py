"""What doctor is asked to look at."""

from __future__ import annotations

from dataclasses import dataclass

from mgd3_fast.config.checks import check_options
from mgd3_fast.config.documented import documented
from mgd3_fast.config.fields import option
from mgd3_fast.errors import UserError


@documented
@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """What doctor looks at besides packages, processor, GPUs and caches."""

    online: bool = option(
        "also ask whether the Hugging Face hub answers", default=False, parse=bool, action="store_true"
    )
    accuracy: bool = option(
        "instead, sample by every backend in every number format: error against eager float32, images/s",
        default=False,
        parse=bool,
        action="store_true",
    )
    generator: str | None = option(
        "whose network --accuracy samples (default: demo-mnist5k)", default=None, metavar="NAME|PATH|ID"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if self.generator is not None and not self.accuracy:
            raise UserError(f"generator must be given with --accuracy only, got {self.generator!r}")
