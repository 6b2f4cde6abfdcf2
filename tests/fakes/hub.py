"""A hub whose repositories are folders."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path


class Hub:
    """Stands in for the Hugging Face hub: repositories are local folders, downloads obey the patterns."""

    def __init__(self, root: Path) -> None:
        self.root, self.requests = root, list[tuple[str, list[str]]]()

    def snapshot_download(self, repo_id: str, *, allow_patterns: list[str]) -> str:
        self.requests.append((repo_id, allow_patterns))
        repository, snapshot = self.root / "repositories" / repo_id, self.root / "snapshots" / repo_id
        if not repository.is_dir():
            raise OSError("We couldn't connect to the hub\nand a second line of advice")
        snapshot.mkdir(parents=True, exist_ok=True)
        for path in filter(Path.is_file, repository.rglob("*")):
            name = str(path.relative_to(repository))
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                (snapshot / name).parent.mkdir(exist_ok=True)
                shutil.copy(path, snapshot / name)
        return str(snapshot)

    def downloaded(self, repo_id: str) -> set[str]:
        snapshot = self.root / "snapshots" / repo_id
        return {str(path.relative_to(snapshot)) for path in filter(Path.is_file, snapshot.rglob("*"))}
