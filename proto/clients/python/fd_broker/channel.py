"""Envelopes over a Unix stream socket."""

from __future__ import annotations

import fcntl
import json
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import FdBrokerError
from .frames import FDS_PER_BATCH, FrameDecoder, frame
from .kernel import close_all, poll
from .messages import Message, body_of, decode, encode

# Body, message, descriptors.
Received = tuple[str, Message, list[int]]

# Nothing is sent that may be left out while the peer has this much unread.
_MOST_UNREAD = 52 * 1024
_MOST_REPORT = 4096

class Channel:
    """Envelopes with descriptors over a connected Unix stream socket, which it owns. One thread reads; any may send."""

    SEND_S = 10.0

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._decoder = FrameDecoder()
        self._sending = threading.Lock()
        self.received_at = time.monotonic()
        self.closed = False
        self.greeted = False
        """Hello was sent: nothing else may be the first message."""

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, body: str, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Returns when the kernel has it; `fds` are borrowed. Raises ERR_FDB_CHANNEL_CLOSED, ERR_FDB_DEADLINE."""
        data = memoryview(frame(encode('Envelope', {body: message}), len(fds)))
        until = time.monotonic() + self.SEND_S
        fds = list(fds)
        with self._sending:
            while data:
                # Each batch of descriptors goes with at least one byte of its own frame.
                batch, rest = fds[:FDS_PER_BATCH], fds[FDS_PER_BATCH:]
                part = data[:1] if rest else data
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f'{len(batch)}i', *batch))] if batch else []
                try:
                    sent = self._sock.sendmsg([part], ancillary)
                except (BlockingIOError, InterruptedError):
                    if not poll(self.fileno(), select.POLLOUT, until - time.monotonic()):
                        self.close()
                        raise FdBrokerError('ERR_FDB_DEADLINE', 'the peer does not read', True) from None
                    continue
                except OSError as error:
                    raise FdBrokerError('ERR_FDB_CHANNEL_CLOSED', f'the channel is closed ({error})', True) from error
                data, fds = data[sent:], rest

    def try_send(self, body: str, message: Mapping[str, Any], fds: Sequence[int] = ()) -> FdBrokerError | None:
        """As send; returns why it failed, or None."""
        try:
            self.send(body, message, fds)
        except FdBrokerError as error:
            return error
        return None

    def beat(self, health: Mapping[str, Any], report: Mapping[str, Any]) -> None:
        self.hint('heartbeat', {**health, 'report': json.dumps(report)[:_MOST_REPORT]})

    def hint(self, body: str, message: Mapping[str, Any]) -> None:
        """Sends what may be left out, unless much waits unread: the socket of a peer that is stopped must keep room for what matters."""
        if not self.closed and self._unread() < _MOST_UNREAD:
            self.send(body, message)

    def _unread(self) -> int:
        try:
            (count,) = struct.unpack('i', fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4)))
            return int(count)
        except OSError:
            return 0

    def end_reading(self) -> None:
        """The reader sees the end; bytes that were sent still arrive."""
        try:
            self._sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass

    def receive(self) -> list[Received] | None:
        """Reads once. Every message that is whole now: (body, message, descriptors). None at the end of the stream."""
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                65536, socket.CMSG_SPACE(FDS_PER_BATCH * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        fds: list[int] = []
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds += struct.unpack(f'{len(raw) // 4}i', raw[:len(raw) // 4 * 4])
        if flags & socket.MSG_CTRUNC:
            close_all(fds)
            raise FdBrokerError('ERR_FDB_FDS_TRUNCATED', 'descriptors were lost on arrival: raise RLIMIT_NOFILE', True)
        if not data:
            close_all(fds)
            return None
        self.received_at = time.monotonic()
        self._decoder.push(data, fds)
        return self.waiting()

    def waiting(self) -> list[Received]:
        """Messages that have arrived whole already."""
        messages: list[Received] = []
        fds: list[int] = []
        try:
            while (got := self._decoder.next()) is not None:
                payload, fds = got
                body = body_of(decode('Envelope', payload))
                if body is None:
                    close_all(fds)
                else:
                    messages.append((body[0], body[1], fds))
                fds = []
        except FdBrokerError:
            close_all(fds)
            close_messages(messages)
            raise
        return messages

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._decoder.close()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def forget(self) -> None:
        """In a child that was forked: closes its copy of the descriptor, and does not shut down the connection of its parent."""
        self.closed = True
        self._decoder.close()
        self._sock.close()

    def release(self) -> None:
        """Closes the descriptor: only when no thread reads any more."""
        self.close()
        self._sock.close()


def close_messages(messages: Iterable[Received]) -> None:
    for _, _, fds in messages:
        close_all(fds)
