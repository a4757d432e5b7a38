"""Functions of the application."""

from __future__ import annotations

import threading
from collections.abc import Callable


class InOrder:
    """Calls what it is given one after the other, each in a thread: what hangs holds up only what comes behind it."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._last = threading.Event()
        self._last.set()

    def run(self, act: Callable[[], object]) -> None:
        before, done = self._last, threading.Event()
        self._last = done

        def call() -> None:
            before.wait()
            try:
                act()
            except Exception as error:
                self._warn(f'a hook threw: {error!r}')
            finally:
                done.set()

        threading.Thread(target=call, name='fd-broker-hook', daemon=True).start()
