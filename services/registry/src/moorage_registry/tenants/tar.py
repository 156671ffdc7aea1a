"""A tar archive as a stream: no file is held whole, and what was broken off is seen, since a tar has an end."""

import tarfile

_BLOCK = tarfile.BLOCKSIZE


def header(name: str, size_bytes: int, at: float) -> bytes:
    """What goes before the contents of a member: a PAX header of POSIX.1-2001."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size_bytes, int(at), 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size_bytes: int) -> bytes:
    """What goes after the contents of a member."""
    return b"\0" * (-size_bytes % _BLOCK)


END = b"\0" * (2 * _BLOCK)
"""What goes after the last member."""
