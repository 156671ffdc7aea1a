"""Threads that predict or load: started when work comes, ended when none has come for a while."""

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

IDLE_S = 10.0


class Workers:
    """Runs what it is given in at most `most` daemon threads, in order. Safe for threads.

    A version that nobody calls has no thread, and a version that is let go leaves none behind.
    """

    def __init__(self, name: str, *, most: int = 1, idle_s: float = IDLE_S) -> None:
        self._name = name
        self._most = most
        self._idle_s = idle_s
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._pending = 0
        self._threads = 0

    @property
    def threads(self) -> int:
        """How many live now."""
        return self._threads

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, which must not raise, once its turn comes."""
        with self._lock:
            self._pending += 1
            self._work.put(work)
            if self._threads >= min(self._pending, self._most):
                return
            self._threads += 1
        threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=self._idle_s)
            except Empty:
                with self._lock:
                    if self._work.empty():
                        self._threads -= 1
                        return
                continue
            work()
            del work  # it holds a model, which may be let go meanwhile
            with self._lock:
                self._pending -= 1
