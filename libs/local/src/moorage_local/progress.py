"""What the person at the terminal sees: lines with the seconds since the start."""

import sys
import time
from dataclasses import dataclass, field

from rich.console import Console


@dataclass
class Progress:
    """Coloured in a terminal, plain elsewhere."""

    console: Console = field(default_factory=lambda: Console(file=sys.stdout, highlight=False, soft_wrap=True))
    started: float = field(default_factory=time.monotonic)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def say(self, text: str) -> None:
        """One line on what goes on."""
        self.console.print(f"[dim]{self.elapsed_s():6.1f} s[/dim]  ", end="")
        self.console.print(text, markup=False)

    def show(self, text: str) -> None:
        """Text to copy, as it is."""
        self.console.print(text, markup=False)
