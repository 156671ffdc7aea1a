"""The artifact cache: blobs by digest, fetched through signed URLs, verified on the way in and before each load.

Each blob has a directory of its own, so that a format that may name neighbouring files finds none.
"""

import hashlib
import os
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from moorage_common.contracts.desired import ArtifactRef
from moorage_common.errors import MoorageError, Unavailable, Unprocessable

MAX_ARTIFACT_BYTES = 8 * 1024**3
_CHUNK = 1024 * 1024
_ATTEMPTS = 3


class ArtifactCache:
    """Blobs under `directory`; safe for threads and processes that fetch the same one."""

    def __init__(self, directory: Path, *, max_bytes: int = MAX_ARTIFACT_BYTES) -> None:
        self._directory = directory
        self._max_bytes = max_bytes

    def path_of(self, digest: str) -> Path:
        return self._directory / "sha256" / digest.removeprefix("sha256:") / "blob"

    def fetch(self, ref: ArtifactRef) -> Path:
        """The verified blob as a regular file, from the cache or through `ref.url`. Blocks.

        Raises:
            Unprocessable: too large, another size or digest than said, a URL that is not http(s).
            Unavailable: it cannot be had now.
        """
        path = self.path_of(ref.digest)
        if self._verified(path, ref.digest):
            return path
        if ref.size_bytes > self._max_bytes:
            raise Unprocessable(
                f"the artifact is {ref.size_bytes} bytes, this host takes {self._max_bytes}", code="artifact_too_large"
            )
        if urlsplit(ref.url).scheme not in {"http", "https"}:
            raise Unprocessable("the artifact is not cached and its URL is neither http nor https", code="bad_url")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._download(ref, path)
                break
            except Unavailable:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(0.2 * 2**attempt)
        return path

    @staticmethod
    def _verified(path: Path, digest: str) -> bool:
        """Whether `path` is a regular file of that digest; anything else there is removed."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        except OSError:
            path.unlink(missing_ok=True)
            return False
        with os.fdopen(descriptor, "rb") as file:
            if "sha256:" + hashlib.file_digest(file, "sha256").hexdigest() == digest:
                return True
        path.unlink(missing_ok=True)
        return False

    def _download(self, ref: ArtifactRef, path: Path) -> None:
        import httpx  # noqa: PLC0415 - a host whose artifacts are cached starts sooner without it

        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")  # mode 0600
        part = Path(name)
        try:
            with (
                os.fdopen(descriptor, "wb") as file,
                httpx.Client(timeout=httpx.Timeout(30.0, connect=5.0), trust_env=False) as client,
                client.stream("GET", ref.url, headers={"accept-encoding": "identity"}) as answer,
            ):
                if answer.status_code != 200:
                    raise _refused(answer.status_code)
                digest, size = hashlib.sha256(), 0
                for chunk in answer.iter_raw(_CHUNK):
                    size += len(chunk)
                    if size > ref.size_bytes:
                        raise Unprocessable(f"the artifact is larger than the {ref.size_bytes} bytes it was said to be")
                    digest.update(chunk)
                    file.write(chunk)
            if f"sha256:{digest.hexdigest()}" != ref.digest:
                raise Unprocessable(
                    f"the artifact has digest sha256:{digest.hexdigest()}, expected {ref.digest}; push it again",
                    code="digest_mismatch",
                )
            part.replace(path)
        except httpx.HTTPError as error:
            raise Unavailable(f"the artifact cannot be fetched: {error}", code="artifact_unavailable") from None
        finally:
            part.unlink(missing_ok=True)


def _refused(status: int) -> MoorageError:
    text = f"the artifact's URL answered {status}"
    if status >= 500 or status == 429:
        return Unavailable(text, code="artifact_unavailable")
    return Unprocessable(f"{text}; its signature may have expired", code="artifact_refused")
