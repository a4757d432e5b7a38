"""Descriptors."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass


def poll(fd: int, events: int, seconds: float) -> bool:
    waiting = select.poll()
    waiting.register(fd, events)
    return bool(waiting.poll(max(0.0, seconds) * 1000))
