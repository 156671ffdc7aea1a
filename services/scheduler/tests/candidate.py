"""A process that stands for the lease and, once it leads, writes as fast as it may: `candidate.py URL NAME LEASE_S`.

Says `standing`, `leading <fencing>`, and ends with 1 when it has lost the lease, as a scheduler does.
"""

import asyncio
import signal
import sys

from moorage_common.bus import Bus
from moorage_common.contracts.names import BUCKET_ENDPOINTS
from moorage_scheduler.leadership import Leadership, LeadershipLost
from moorage_scheduler.reports import Publisher

CLUSTER = "test"
KEY = f"{CLUSTER}.who"


async def run(url: str, name: str, lease_s: float) -> int:
    bus = Bus(url, name)
    await bus.start()
    leadership = Leadership(
        bus, CLUSTER, lease_s=lease_s, renew_s=lease_s / 5, margin_s=lease_s / 5, holder=name,
    )  # fmt: skip
    publisher = Publisher(bus, BUCKET_ENDPOINTS, CLUSTER, leadership.valid)
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)

    async def work() -> None:
        await bus.wait()
        print("standing", flush=True)
        await leadership.acquire()
        await leadership.rise_above(await publisher.found_epoch())
        publisher.lead(leadership.fencing)
        print("leading", leadership.fencing, flush=True)
        async with asyncio.TaskGroup() as group:
            group.create_task(leadership.keep())
            group.create_task(publisher.writer.run())
            group.create_task(write())

    async def write() -> None:
        number = 0
        while True:
            number += 1
            publisher.hold(KEY, {"by": name, "number": number})
            await asyncio.sleep(0.02)

    code = 0
    tasks = {asyncio.create_task(work()), asyncio.create_task(told.wait())}
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except* LeadershipLost as error:
        print("lost", error.exceptions[0], flush=True)
        code = 1
    finally:
        for task in tasks:
            task.cancel()
        await leadership.release()
        await bus.close()
    return code


if __name__ == "__main__":
    sys.exit(asyncio.run(run(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
