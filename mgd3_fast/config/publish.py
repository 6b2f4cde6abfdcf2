"""What is published, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mgd3_fast.config.checks import check_folder, check_local, check_options
from mgd3_fast.config.convert import DEFAULT_SHARD_MIB, LARGEST_SHARD_MIB
from mgd3_fast.config.documented import documented
from mgd3_fast.config.fields import argument, option, place, whole
from mgd3_fast.config.report import path_list
from mgd3_fast.errors import UserError

_REPO = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*")
_LONGEST_REPO = 96  # of the hub


def _check_repo(name: str, repo: str) -> None:
    fits = _REPO.fullmatch(repo) and len(repo) <= _LONGEST_REPO and not repo.endswith((".git", ".", "-"))
    if not fits or ".." in repo or "--" in repo:
        raise UserError(
            f"{name} must be owner/name of letters, digits, - _ and . in the name, at most {_LONGEST_REPO} in"
            f" all, got {repo!r}"
        )


@documented
@dataclass(frozen=True, kw_only=True)
class PublishConfig:
    """What `publish_run` is asked to do: a finished run, and the dataset of the hub that it becomes."""

    folder: Path | str = argument("a finished run of distill", metavar="DIR", check=check_local)
    repo: str = argument("dataset on the hub", metavar="OWNER/NAME", parse=str, check=_check_repo)
    out: Path | str | None = option(
        "folder that receives what is uploaded (default: DIR-hub)",
        default=None,
        parse=place,
        metavar="PATH",
        check=check_folder,
    )
    dry_run: bool = option(
        "write the folder and upload nothing", default=False, parse=bool, action="store_true"
    )
    private: bool = option(
        "a new dataset is visible to its owners alone", default=False, parse=bool, action="store_true"
    )
    source_licence: str | None = option(
        "licence of the images that were distilled (default: what is known of mnist5k and ImageNet)",
        default=None,
        metavar="TEXT",
    )
    results: tuple[Path, ...] = option(
        "results of evaluate, compare, metrics and judge, separated by commas: files or their folders"
        " (default: those of this run in DIR, beside it and in evaluation/ beside it)",
        default=(),
        parse=path_list,
        metavar="PATH,..",
    )
    shard_mib: int = whole("MiB of images per file", default=DEFAULT_SHARD_MIB, highest=LARGEST_SHARD_MIB)

    def __post_init__(self) -> None:
        check_options(self)
        if not isinstance(self.results, tuple):
            raise UserError(f"results must be paths separated by commas, got {self.results!r}")
