"""A pooled model whose predicts are noted in the journal; suspects take turns."""

import contextlib
import threading
from collections.abc import Callable, Collection

from moorage_runtime.formats import Model, inline_s
from moorage_runtime.pooled.journal import Mark
from moorage_runtime.v2 import Array

TRUSTED = 100
"""A suspect that answered so often is none any more."""


class Watched:
    """A `Model` that says when it is at work."""

    def __init__(self, model: Model, mark: Mark) -> None:
        self._model = model
        self._mark = mark
        self.inline_s = inline_s(model)

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        """As the model does."""
        self._mark.predicting()
        try:
            return self._model.predict(inputs, wanted)
        finally:
            self._mark.idle()


class Suspect:
    """A `Watched` of a suspect: it answers in its thread, one of all suspects at a time, until it is trusted."""

    inline_s = 0.0

    def __init__(self, watched: Watched, turn: threading.Lock, trust: Callable[[], None]) -> None:
        self._watched = watched
        self._turn: contextlib.AbstractContextManager[object] = turn
        self._trust = trust
        self._answers = 0

    def predict(self, inputs: dict[str, Array], wanted: Collection[str]) -> dict[str, Array]:
        """As the model does, when its turn has come."""
        with self._turn:
            outputs = self._watched.predict(inputs, wanted)
        self._answers += 1
        if self._answers == TRUSTED:
            self._turn = contextlib.nullcontext()
            self._trust()
        return outputs
