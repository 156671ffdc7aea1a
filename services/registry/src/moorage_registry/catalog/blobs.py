"""Artifacts on disk: `<directory>/<tenant>/<sha256 hex>`, whole or not there."""

import asyncio
import contextlib
import hashlib
import hmac
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from moorage_common.contracts.names import TenantId
from moorage_common.errors import BadRequest, TooLarge

_WRITE_BYTES = 1 << 20


@dataclass(frozen=True)
class BlobStore:
    """A directory of blobs by tenant and digest, `sha256:<hex>`."""

    directory: Path
    max_bytes: int

    def path(self, tenant: TenantId, digest: str) -> Path:
        return self.directory / tenant / digest.removeprefix("sha256:")

    async def save(self, tenant: TenantId, digest: str, body: AsyncIterator[bytes], announced: int | None) -> int:
        """Store what `body` streams; its size in bytes. Nothing is left behind on failure.

        Args:
            announced: the Content-Length, where the caller sent one.

        Raises:
            TooLarge: more than `max_bytes`.
            BadRequest: the bytes have another digest.
        """
        if announced is not None:
            self._check_size(announced)
        final = self.path(tenant, digest)
        await asyncio.to_thread(final.parent.mkdir, parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.{secrets.token_hex(8)}.part")
        try:
            with partial.open("xb") as file:
                found, size = await self._copy(body, file)
                if not hmac.compare_digest(found, digest):
                    message = f"the body's digest is {found}, not {digest}; send the bytes that the digest was made of"
                    raise BadRequest(message, code="digest_mismatch")
                await asyncio.to_thread(_settle, file, partial, final)
        finally:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()
        return size

    async def _copy(self, body: AsyncIterator[bytes], file: BinaryIO) -> tuple[str, int]:
        sha256 = hashlib.sha256()
        buffer = bytearray()
        size = 0
        async for chunk in body:
            size += len(chunk)
            self._check_size(size)
            buffer += chunk
            if len(buffer) >= _WRITE_BYTES:
                await asyncio.to_thread(_absorb, bytes(buffer), sha256.update, file)
                buffer.clear()
        await asyncio.to_thread(_absorb, bytes(buffer), sha256.update, file)
        return f"sha256:{sha256.hexdigest()}", size

    async def remove_all(self, tenant: TenantId) -> None:
        """Remove every blob of the tenant. What cannot be removed raises OSError; what is not there is no error."""
        await asyncio.to_thread(_remove, self.directory / tenant)

    def _check_size(self, size: int) -> None:
        if size > self.max_bytes:
            message = f"an artifact has at most {self.max_bytes} bytes here; push a smaller model or ask the operator"
            raise TooLarge(message, code="artifact_too_large")


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _absorb(data: bytes, update: Callable[[bytes], object], file: BinaryIO) -> None:
    update(data)
    file.write(data)


def _settle(file: BinaryIO, partial: Path, final: Path) -> None:
    """Make the file durable, then give it its name, then make the name durable."""
    file.flush()
    os.fsync(file.fileno())
    partial.replace(final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
