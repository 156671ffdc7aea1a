"""The artifact cache: nothing unverified is ever loaded."""

import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from moorage_common.contracts.desired import ArtifactRef
from moorage_common.errors import Unavailable, Unprocessable
from moorage_runtime.artifacts import ArtifactCache


def test_a_blob_is_fetched_once_and_kept_private(blobs: Any, tmp_path: Path) -> None:
    cache, ref = ArtifactCache(tmp_path / "cache"), blobs.put(b"x" * 3_000_000)
    path = cache.fetch(ref)
    assert path.read_bytes() == b"x" * 3_000_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert cache.fetch(ref.model_copy(update={"url": ""})) == path
    assert len(blobs.hits) == 1
    assert [p.name for p in path.parent.iterdir()] == ["blob"]


def test_a_blob_of_another_digest_is_refused_and_not_kept(blobs: Any, tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path / "cache")
    ref = blobs.put(b"good", name="a")
    blobs.put(b"evil", name="a")
    with pytest.raises(Unprocessable, match="expected sha256") as caught:
        cache.fetch(ref)
    assert caught.value.code == "digest_mismatch"
    assert list(cache.path_of(ref.digest).parent.iterdir()) == []


def test_a_blob_larger_than_said_is_cut_off(blobs: Any, tmp_path: Path) -> None:
    ref = blobs.put(b"x" * 5_000_000).model_copy(update={"size_bytes": 1000})
    with pytest.raises(Unprocessable, match="larger than"):
        ArtifactCache(tmp_path / "cache").fetch(ref)
    with pytest.raises(Unprocessable, match="this host takes"):
        ArtifactCache(tmp_path / "cache", max_bytes=999).fetch(ref)


def test_a_cached_blob_that_changed_or_is_a_link_is_fetched_again(blobs: Any, tmp_path: Path) -> None:
    cache, ref = ArtifactCache(tmp_path / "cache"), blobs.put(b"good")
    path = cache.fetch(ref)
    path.write_bytes(b"evil")
    assert cache.fetch(ref).read_bytes() == b"good"
    path.unlink()
    target = tmp_path / "elsewhere"
    target.write_bytes(b"good")
    path.symlink_to(target)
    assert cache.fetch(ref).read_bytes() == b"good"
    assert not path.is_symlink()


@pytest.mark.parametrize("url", ["", "file:///etc/passwd", "ftp://x/y", "/etc/passwd"])
def test_only_http_urls_are_fetched(url: str, tmp_path: Path) -> None:
    ref = ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=10, url=url)
    with pytest.raises(Unprocessable, match="neither http nor https"):
        ArtifactCache(tmp_path).fetch(ref)


def test_a_refused_url_and_a_store_that_is_down_are_told_apart(blobs: Any, tmp_path: Path) -> None:
    ref = ArtifactRef(digest="sha256:" + "0" * 64, size_bytes=10, url=f"{blobs.url}/none")
    with pytest.raises(Unprocessable, match="404"):
        ArtifactCache(tmp_path / "c").fetch(ref)
    with pytest.raises(Unavailable, match="cannot be fetched"):
        ArtifactCache(tmp_path / "c").fetch(ref.model_copy(update={"url": "http://127.0.0.1:1/x"}))


def test_many_threads_may_fetch_the_same_blob(blobs: Any, tmp_path: Path) -> None:
    ref, seen = blobs.put(b"z" * 2_000_000), []
    cache = ArtifactCache(tmp_path / "cache")
    threads = [threading.Thread(target=lambda: seen.append(cache.fetch(ref).stat().st_size)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [2_000_000] * 8
