"""Descriptors."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterable

from .errors import FdBrokerError


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


def pidfd_of_self() -> list[int]:
    """A descriptor of this process; none where the kernel has no pidfds. Raises ERR_FDB_NO_DESCRIPTORS."""
    if not hasattr(os, 'pidfd_open'):
        return []
    try:
        return [os.pidfd_open(os.getpid())]
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return []
        # Without it the holder could not prove this process's death.
        raise no_descriptor(error) from error


def no_descriptor(error: OSError) -> FdBrokerError:
    return FdBrokerError('ERR_FDB_NO_DESCRIPTORS', f'no descriptor is left: raise RLIMIT_NOFILE ({error})', True)
