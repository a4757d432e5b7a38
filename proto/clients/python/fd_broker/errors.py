"""Errors with stable codes."""

from __future__ import annotations


class FdBrokerError(Exception):
    """An error with the stable code that docs/errors.md lists. ``retryable``: it may pass."""

    def __init__(self, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(f'{code}: {message}')
        self.code = code
        self.message = message
        self.retryable = retryable


class ListenerClosed(Exception):
    """This process accepts no more on a listener, for good."""


def coded(error: Exception) -> FdBrokerError:
    """Makes an FdBrokerError of any other."""
    return error if isinstance(error, FdBrokerError) else FdBrokerError('ERR_FDB_INTERNAL', str(error))
