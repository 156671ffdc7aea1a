"""Whether a process still listens: told by an open connection, which the kernel closes the moment the process dies."""

import asyncio
import contextlib


async def closed(address: str) -> None:
    """Until nobody listens at `address` any more, told by one open connection; when only that closes, by the next."""
    name, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        while True:
            reader, writer = await asyncio.open_connection(name.strip("[]"), int(port))
            try:
                await reader.read(1)
            finally:
                writer.close()
