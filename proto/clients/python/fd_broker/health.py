"""The application's report of its health."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .messages import Message


class Health:
    """Asks the application for its health in a separate thread: a call that does not answer must not hold up anything else."""

    LIMIT_S = 3.0

    def __init__(self, ask: Callable[[], bool] | None) -> None:
        self._ask = ask
        self._asked_at: float | None = None
        self._said: Message = {'healthy': True} if ask is None else {'healthy': False, 'unwell': 'its health check has not answered yet'}

    def ask(self) -> None:
        if self._ask is None or self._asked_at is not None:
            return
        self._asked_at = time.monotonic()
        threading.Thread(target=self._run, args=(self._ask,), name='fd-broker-health', daemon=True).start()

    def _run(self, ask: Callable[[], bool]) -> None:
        try:
            well, why = bool(ask()), ''
        except Exception as error:
            well, why = False, f'its health check threw: {error}'[:500]
        self._said, self._asked_at = {'healthy': well, 'unwell': why}, None

    def said(self) -> Message:
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() - asked_at > self.LIMIT_S:
            return {'healthy': False, 'unwell': 'its health check does not answer'}
        return self._said
