"""Ten thousand keep-alive connections idle on one router: what they cost, and that each still answers.

Every connection is opened and asks once; then all are idle, memory is read, and every one asks again.

    python bench/connections.py [--connections 10000]
"""

import argparse
import asyncio
import resource
import sys
import time
from typing import Any
from urllib.parse import urlsplit

import report
import router
from platform_run import lift_limits, platform

MIB = 1024 * 1024
AT_ONCE = 100


async def hold(job: dict[str, Any], measure: Any) -> dict[str, Any]:
    """Open, ask once on each, let `measure` look, ask again on each."""
    parts = urlsplit(job["url"])
    body = job["body"].encode()
    lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in job["headers"].items()]
    message = "\r\n".join([*lines, "", ""]).encode() + body
    turns = asyncio.Semaphore(AT_ONCE)
    streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        async with turns:
            writer.write(message)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            return head.startswith(b"http/1.1 200 ")

    async def opened() -> bool:
        async with turns:
            streams.append(await asyncio.open_connection(parts.hostname, parts.port, limit=8192))
        return await ask(*streams[-1])

    begun = time.monotonic()
    first = await asyncio.gather(*(opened() for _ in range(job["connections"])))
    opened_s = time.monotonic() - begun
    await asyncio.sleep(2)
    found = measure()
    begun = time.monotonic()
    again = await asyncio.gather(*(ask(*pair) for pair in streams))
    return {
        "connections": len(streams), "answered first": sum(first), "answered again": sum(again), **found,
        "opened and asked s": round(opened_s, 1), "asked again s": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--connections", type=int, default=10_000)
    args = options.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < args.connections + 500:
        sys.exit(f"{args.connections} connections need as many open files; the hard limit here is {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with platform("--no-demo") as local:
        lift_limits(local)
        found = router.sides(local, 1)
        process = found.router
        before = process.memory_info().rss / MIB

        def measure() -> dict[str, Any]:
            held = process.memory_info().rss / MIB
            cpu = router.cpu_s(process)
            time.sleep(2)
            idle = (router.cpu_s(process) - cpu) / 2 * 100
            return {
                "RSS before MiB": round(before, 1), "RSS held MiB": round(held, 1),
                "KiB a connection": round((held - before) * 1024 / args.connections, 1), "idle CPU %": round(idle, 1),
            }  # fmt: skip

        job = {
            "url": found.routed.url, "body": found.routed.body, "headers": found.routed.headers,
            "connections": args.connections,
        }  # fmt: skip
        row = asyncio.run(hold(job, measure))
    assert row["answered first"] == row["answered again"] == args.connections, row
    report.table("Idle keep-alive connections on one router", [row])
    print(report.keep("connections", {"results": [row]}))


if __name__ == "__main__":
    main()
