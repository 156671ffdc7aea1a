"""The streams that routers write and the registry reads. Whoever comes first makes them.

FEEDBACK and OUTPUTS are work queues: a message leaves once the registry has written it down, so a stream is as long as
the registry is behind.
"""

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType

from moorage_common.bus import Bus
from moorage_common.contracts.names import STREAM_FEEDBACK, STREAM_OUTPUTS, STREAM_SIGNALS

SIGNALS_SUBJECTS = "signals.>"
FEEDBACK_SUBJECTS = "feedback.>"
OUTPUTS_SUBJECTS = "outputs.>"
_SIGNALS_MAX_AGE_S = 3600.0
_SIGNALS_MAX_BYTES = 64 * 1024**2
_FEEDBACK_MAX_AGE_S = 30 * 86_400.0
_FEEDBACK_MAX_BYTES = 1024**3
_OUTPUTS_MAX_AGE_S = 7 * 86_400.0
_OUTPUTS_MAX_BYTES = 512 * 1024**2


async def ensure_signals(bus: Bus) -> None:
    """Make SIGNALS when absent, in memory: it is read within a second, and what is lost costs evidence alone."""
    await bus.ensure_stream(
        STREAM_SIGNALS, [SIGNALS_SUBJECTS], _SIGNALS_MAX_AGE_S, StorageType.MEMORY, _SIGNALS_MAX_BYTES
    )


async def ensure_feedback(bus: Bus) -> None:
    """Make FEEDBACK when absent. A full one refuses what comes: a label that was acknowledged is not lost."""
    await bus.ensure_stream(
        STREAM_FEEDBACK, [FEEDBACK_SUBJECTS], _FEEDBACK_MAX_AGE_S, max_bytes=_FEEDBACK_MAX_BYTES,
        retention=RetentionPolicy.WORK_QUEUE, discard=DiscardPolicy.NEW,
    )  # fmt: skip


async def ensure_outputs(bus: Bus) -> None:
    """Make OUTPUTS when absent. A full one loses its oldest."""
    await bus.ensure_stream(
        STREAM_OUTPUTS, [OUTPUTS_SUBJECTS], _OUTPUTS_MAX_AGE_S, max_bytes=_OUTPUTS_MAX_BYTES,
        retention=RetentionPolicy.WORK_QUEUE,
    )  # fmt: skip
