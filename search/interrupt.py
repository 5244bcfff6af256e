"""What asks a program to end, kept until it can."""

import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Self


class Interrupt:
    """SIGINT, SIGTERM or SIGHUP, kept until whoever asks for it is ready to end; a second one ends it at once, if it may
    `insist`. `word`: said at the first."""

    signal: int = 0

    def __init__(self, word: str = "", insist: bool = True) -> None:
        self.word, self.insist = word, insist

    def __enter__(self) -> Self:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        heard = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
        self.before = {number: signal.signal(number, self._keep) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _keep(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            if not self.insist:
                return
            raise KeyboardInterrupt
        self.signal = number
        if self.word:
            with suppress(OSError):  # the terminal is gone
                print(f"lpanas: {self.word}", file=sys.stderr)
