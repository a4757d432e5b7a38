"""Listening sockets that outlive their process."""

from __future__ import annotations

import os
import select
import socket
import socketserver
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .errors import ListenerClosed
from .hooks import InOrder
from .kernel import poll

if TYPE_CHECKING:
    from .state import StatePart

Socket = socket.socket


class Listener:
    """A listening socket that outlives this process. Accept by :meth:`accept` or :meth:`serve`, which keep to whose turn it is; or
    by the loop of another library on :attr:`socket`, as :meth:`on_turn` says."""

    _LOOK_S = 0.1

    def __init__(self, member: StatePart, name: str, spec: str, fd: int, adopted: bool) -> None:
        self._member = member
        self.name = name
        self.spec = spec
        self.adopted = adopted
        """Whether the socket was handed over, not bound here."""
        self.accepting = False
        """Whether it is this process's turn."""
        self.closed = False
        self._last = False
        """This process accepts only what waits in the queue."""
        self._hooks: list[Callable[[bool], object]] = []
        self._turns = InOrder(member._warn)
        # All processes that hold the file share its flags: no process may make it block. A dup of this object does not either.
        os.set_blocking(fd, False)
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)

    @property
    def socket(self) -> Socket:
        """The listening socket, which does not block, and must not be made to. Give `socket.dup()` to a library that closes its sockets. Never
        call `shutdown()` on it: it is that of every process that holds it."""
        return self._socket

    def fileno(self) -> int:
        """The descriptor of :attr:`socket`; -1: it is closed."""
        return self._socket.fileno()

    def on_turn(self, hook: Callable[[bool], object]) -> None:
        """Calls `hook(True)` when it is this process's turn to accept, at once if it is, and `hook(False)` when it is another's. In a thread of
        its own, one call after the other."""
        with self._member._changed:
            self._hooks.append(hook)
            if self.accepting:
                self._turns.run(lambda: hook(True))

    def _turn(self, accepting: bool) -> None:
        """With the member's lock."""
        accepting = accepting and not self.closed
        if accepting != self.accepting:
            self.accepting = accepting
            for hook in self._hooks:
                self._turns.run(lambda hook=hook: hook(accepting))  # type: ignore[misc]

    @property
    def address(self) -> Any:
        return self._socket.getsockname()

    def accept(self, timeout: float | None = None) -> tuple[Socket, Any]:
        """(connection, address) of the next connection, when it is this process's turn; a connection blocks, as a new socket does.
        Raises ListenerClosed when that will not be any more, TimeoutError after `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        changed = self._member._changed
        while True:
            with changed:
                while not self.accepting and not self.closed:
                    changed.wait(None if until is None else max(0.0, until - time.monotonic()))
                    self._check(until)
                if self.closed:
                    raise ListenerClosed(self.name)
                try:
                    return self._socket.accept()
                except BlockingIOError:
                    if self._last:
                        self._close()
                        changed.notify_all()
                        raise ListenerClosed(self.name) from None
                except ConnectionAbortedError:
                    continue
                fd = self._socket.fileno()
            self._check(until)
            poll(fd, select.POLLIN, self._LOOK_S if until is None else min(self._LOOK_S, until - time.monotonic()))

    def _check(self, until: float | None) -> None:
        if until is not None and time.monotonic() >= until:
            raise TimeoutError(f'nobody connected to {self.name}')

    def serve(self, server: socketserver.BaseServer) -> None:
        """Gives connections to a server of `socketserver` (so of `http.server`) that is not bound itself, until it is another's turn for
        good. Then `server.server_close()` waits for its threads, if `daemon_threads` is False."""
        while True:
            try:
                request, address = self.accept()
            except ListenerClosed:
                return
            except OSError as error:
                # No descriptor left, say: what waits in the queue is accepted when there is one.
                self._member._warn(f'accepting on {self.name} failed: {error}')
                time.sleep(self._LOOK_S)
                continue
            try:
                if server.verify_request(request, address):
                    server.process_request(request, address)
                else:
                    server.shutdown_request(request)
            except Exception:
                server.handle_error(request, address)
                server.shutdown_request(request)

    def _close_behind_queue(self) -> None:
        """Closes when :meth:`accept` has taken what waits; at once where another loop accepts. With the member's lock."""
        if self._hooks or not self.accepting:
            self._close()
        else:
            self._last = True

    def _close(self) -> None:
        self._turn(False)
        if not self.closed:
            self.closed = True
            self._socket.close()
