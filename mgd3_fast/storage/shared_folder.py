"""A folder of the cache that several machines may share through a bucket.

It lies on the disk as ever. A file that is missing there is fetched when it is asked for, and what is made
there is put into the bucket. Files are made once and never changed; of two makers of one, the bucket's is
everybody's.
"""

from __future__ import annotations

import time
from pathlib import Path
from threading import Lock

from mgd3_fast.storage.remote import Bucket
from mgd3_fast.storage.tensor_files import open_if_whole, save_content

# For so long a listing is believed: a shard that somebody stored meanwhile may be encoded twice, no more.
_BELIEVED_S = 10.0


class CacheFolder:
    """Tensor files of a folder and of the folders in it, on the disk of this machine alone."""

    fetched = 0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def fetch(self, path: Path) -> bool:
        """Bring a missing file here from elsewhere, and tell whether there is one."""
        return False

    def publish(self, path: Path) -> None:
        """Let others have a file."""

    def forget(self) -> None:
        """Look again at what others have."""

    def remove(self, path: Path) -> None:
        """Delete a file, wherever it is."""
        path.unlink(missing_ok=True)

    def folders(self) -> set[Path]:
        """The folders in it of which others have files."""
        return set()


class SharedFolder(CacheFolder):
    """Such a folder, and the place in a bucket where it is shared, under the same names.

    Args:
        folder: On the disk.
        url: In the bucket.

    Attributes:
        fetched: Files that were brought here.

    Raises:
        UserError: By every method: what the bucket's store said.
    """

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self._bucket = Bucket(url)
        self._names: set[str] = set()
        self._listed_at: float | None = None
        self._listing = Lock()

    def __str__(self) -> str:
        return str(self._bucket)

    def fetch(self, path: Path) -> bool:
        """See `CacheFolder.fetch`; a damaged file is taken out of the bucket."""
        name = self._name(path)
        if name not in self._listed():
            return False
        try:
            content = self._bucket.read(name)
        except FileNotFoundError:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        save_content(path, content)
        if open_if_whole(path) is None:
            self.remove(path)
            return False
        self.fetched += 1
        return True

    def publish(self, path: Path) -> None:
        """Put a file into the bucket; one that another maker put there meanwhile takes its place here."""
        name = self._name(path)
        if name in self._listed():
            return
        created = self._bucket.create(name, path.read_bytes())
        self._names = self._names | {name}
        if not created:
            self.fetch(path)

    def forget(self) -> None:
        """See `CacheFolder.forget`."""
        self._listed_at = None

    def remove(self, path: Path) -> None:
        """Delete a file here and in the bucket."""
        super().remove(path)
        self._names = self._names - {self._name(path)}
        self._bucket.remove([self._name(path)])

    def folders(self) -> set[Path]:
        """See `CacheFolder.folders`."""
        return {(self._folder / name).parent for name in self._listed()} - {self._folder}

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _listed(self) -> set[str]:
        with self._listing:
            if self._listed_at is None or time.monotonic() - self._listed_at > _BELIEVED_S:
                self._names = set(self._bucket.sizes())
                self._listed_at = time.monotonic()
            return self._names


def cache_folder(folder: Path, url: str | None) -> CacheFolder:
    """The folder of a cache, shared at a URL where one is given."""
    return SharedFolder(folder, url) if url else CacheFolder(folder)
