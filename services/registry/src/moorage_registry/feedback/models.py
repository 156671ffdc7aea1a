"""What is said about labels over HTTP."""

from pydantic import BaseModel

from moorage_common.contracts.rollouts import FeedbackPolicy


class VersionFeedback(BaseModel):
    """What the recent labels say of one version.

    `accuracy` is null where no label said right or wrong, `mean_loss` where none said how far off. `pairs` are answers
    that were given to a copy of another version's request.
    """

    version: int
    labels: int
    wrong: int
    accuracy: float | None
    mean_loss: float | None
    pairs: int


class LabelDelay(BaseModel):
    """Seconds from the request to its label."""

    p50: float
    p90: float


class FeedbackStatus(BaseModel):
    """`outputs` and `labels` are held now; `settled` is how many labels have been held against an answer, ever.

    `waiting` came within the last hour and their answer has not; `lost` have waited for longer. `versions` and
    `delay_s` are of the last `recent` settled labels.
    """

    model: str
    policy: FeedbackPolicy | None
    outputs: int
    labels: int
    settled: int
    waiting: int
    lost: int
    recent: int
    versions: list[VersionFeedback]
    delay_s: LabelDelay | None
