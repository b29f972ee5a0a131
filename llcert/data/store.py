"""The folders in which official data files are searched, and downloads of missing ones."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from llcert.errors import InvalidInput

_CHUNK = 1 << 18
_TIMEOUT_SECONDS = 30.0
_MARGIN = 1 << 20


class Progress(Protocol):
    """Wraps the chunks of a download, to show how it goes; must yield them unchanged.

    total: bytes to come, None where the server does not say.
    """

    def __call__(self, chunks: Iterable[bytes], *, total: int | None, label: str) -> Iterable[bytes]: ...


def silent(chunks: Iterable[bytes], *, total: int | None, label: str) -> Iterable[bytes]:
    """The chunks as they are: no progress shown."""
    return chunks


@dataclass(frozen=True)
class Remote:
    """An official file on the network.

    urls: tried in order.
    digest: `algorithm:hex`, as its owner publishes it.
    size: most bytes it may have.
    """

    filename: str
    urls: tuple[str, ...]
    digest: str
    size: int


def default_root() -> Path:
    """The folder of downloaded data: `LLCERT_DATA`, else `llcert` in the user's cache (XDG)."""
    if named := os.environ.get("LLCERT_DATA"):
        return Path(named).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "llcert"


@dataclass(frozen=True)
class Store:
    """A folder of data sets. download: whether what is missing may be fetched into it."""

    root: Path
    download: bool = True
    progress: Progress = silent

    def places(self, folders: Iterable[str]) -> Iterator[Path]:
        """Those of the folders below the root that exist; the root itself is `.`."""
        for folder in folders:
            place = self.root / folder
            if place.is_dir():
                yield place

    def find(self, folders: Iterable[str], filenames: Iterable[str]) -> Path | None:
        """The first of the files that lies in the first of the folders that holds one."""
        wanted = tuple(filenames)
        for place in self.places(folders):
            for filename in wanted:
                if (place / filename).is_file():
                    return place / filename
        return None

    def fetch(self, remote: Remote, folder: str) -> Path:
        """The file, downloaded into `root/folder`, its checksum verified.

        Raises InvalidInput, naming the folder searched and the addresses, where it may not or cannot be downloaded.
        """
        missing = f"{remote.filename} is not in {self.root} (nor in its usual folders, such as {folder}/)"
        where = f"get it from {' or '.join(remote.urls)} and name its folder with --data-root"
        if not self.download:
            raise InvalidInput(f"{missing}; {where}")
        target = self.root / folder / remote.filename
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"{missing} and {target.parent} cannot be created ({error.strerror}); {where}"
            ) from error
        reasons = []
        for url in remote.urls:
            try:
                self._download(url, remote, target)
                return target
            except (OSError, http.client.HTTPException, InvalidInput) as error:
                reasons.append(str(error) or type(error).__name__)
        raise InvalidInput(f"{missing} and could not be downloaded ({'; '.join(dict.fromkeys(reasons))}); {where}")

    def _download(self, url: str, remote: Remote, target: Path) -> None:
        """Writes `target` at once or not at all, so that a killed download never looks like a file."""
        algorithm, expected = remote.digest.split(":")
        digest = hashlib.new(algorithm, usedforsecurity=False)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as partial:
            try:
                with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
                    announced = response.headers.get("Content-Length", "")
                    total = int(announced) if announced.isdecimal() else None
                    for chunk in self.progress(_chunks(response, remote), total=total, label=remote.filename):
                        digest.update(chunk)
                        partial.write(chunk)
                if digest.hexdigest() != expected:
                    raise InvalidInput(f"{url}: what arrived is not {remote.filename}, its {algorithm} differs")
                partial.close()
                Path(partial.name).chmod(0o644)
                Path(partial.name).replace(target)
            finally:
                Path(partial.name).unlink(missing_ok=True)


def _chunks(response: IO[bytes], remote: Remote) -> Iterator[bytes]:
    left = remote.size + _MARGIN
    while chunk := response.read(_CHUNK):
        left -= len(chunk)
        if left < 0:
            raise InvalidInput(f"{remote.filename}: the server sends more than the {remote.size:,} bytes it has")
        yield chunk
