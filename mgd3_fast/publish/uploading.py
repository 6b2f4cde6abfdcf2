"""Files onto the Hugging Face hub, in one commit.

Large files are sent first, one after another, and named by one commit at the end: a dataset appears, or
changes, whole. What was sent before an interruption the hub knows by its hash and does not take again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from mgd3_fast.errors import Interrupted, UserError, shortened
from mgd3_fast.formats.record import CARD, RECORD
from mgd3_fast.progress import Progress

_KIND: dict[str, Any] = {"repo_type": "dataset"}
_OWN = (".gitattributes", CARD)  # what a new dataset may have, made on the hub's pages
_MIB = 1 << 20
_REFUSED = {
    401: "the hub does not know your token: make one at https://huggingface.co/settings/tokens, then"
    " `hf auth login` or HF_TOKEN",
    403: "your token may not write {repo}: it must be of the kind write, and the owner you or an organisation"
    " of yours",
}


@dataclass(frozen=True)
class Repository:
    """A dataset of the hub that may be written.

    Args:
        name: owner/name.
        files: What is in it; None where it is yet to be made.
    """

    name: str
    files: frozenset[str] | None


def find_repository(name: str) -> Repository:
    """Look at the hub before any work.

    Raises:
        UserError: There is no token, the name is taken by something else, or the hub cannot be reached or
            refuses; in one line.
    """
    if get_token() is None:
        raise UserError(
            f"{name} needs a token of the hub: `hf auth login`, or HF_TOKEN"
            " (https://huggingface.co/settings/tokens)"
        )
    with _explained(name):
        try:
            found = frozenset(HfApi().list_repo_files(name, **_KIND))
        except RepositoryNotFoundError as error:
            if error.response.status_code == 401:  # which it also says of a name that is free, to strangers
                raise UserError(_REFUSED[401]) from None
            return Repository(name, None)
    others = sorted(found.difference(_OWN))
    if others and RECORD not in found:
        raise UserError(
            f"{name} must be free on the hub or hold what publish wrote, got a dataset with {others[0]!r}:"
            " choose another name"
        )
    return Repository(name, found)


def upload(files: Mapping[str, Path], to: Repository, *, private: bool, progress: Progress) -> str:
    """Make a dataset of the hub hold these files, and nothing else under `data/`.

    Args:
        files: By their path in the dataset; one is `export.json`.
        to: Made where it is not there.
        private: Whether a new one is visible to its owners alone.
        progress: Receives a bar.

    Returns:
        Address of the commit.

    Raises:
        UserError: The token gives no right, or the hub cannot be reached or refuses; in one line.
        Interrupted: Ctrl-C; what was sent stays there.
    """
    api = HfApi()
    with _own_bar(), _explained(to.name):
        if to.files is None:
            api.create_repo(to.name, private=private, exist_ok=True, **_KIND)
        additions = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        sizes = [math.ceil(path.stat().st_size / _MIB) for path in files.values()]
        with progress.stage("upload", total=sum(sizes), unit="MiB") as bar:
            for addition, size in zip(additions, sizes, strict=True):
                api.preupload_lfs_files(to.name, [addition], free_memory=False, **_KIND)
                bar.advance(size)
        old = [name for name in to.files or () if name.startswith("data/") and name not in files]
        operations: list[Any] = [*additions, *map(CommitOperationDelete, sorted(old))]
        done = api.create_commit(to.name, operations, commit_message="mgd3-fast publish", **_KIND)
    return str(done.commit_url)


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Say in one line what the hub, its client or the network library mean."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"{repo} is as it was; files that were sent are not sent again") from None
    except UserError:
        raise
    except Exception as error:  # the client raises its own, the network library's and OSError
        meant = error if isinstance(error, HfHubHTTPError) else error.__cause__ or error
        raise UserError(_meaning(meant, repo)) from None


def _meaning(error: BaseException, repo: str) -> str:
    reason = shortened(" ".join(str(error).split()), 160)
    if isinstance(error, HfHubHTTPError):
        status = getattr(error.response, "status_code", 0)
        return _REFUSED.get(status, "the hub refused {repo}: {reason}").format(repo=repo, reason=reason)
    if isinstance(error, ValueError):  # such as a card that somebody has edited
        return f"{repo} must be what the hub takes: {reason}"
    return (
        f"the hub could not be reached ({type(error).__name__}: {reason}): start the command again, what was"
        " sent is not sent again"
    )


@contextmanager
def _own_bar() -> Iterator[None]:
    """The client's bars are silent beside ours."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()
