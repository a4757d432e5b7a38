"""The way to the daemon."""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
import time
import uuid
from collections.abc import Mapping
from typing import Any

from .channel import Channel, Received, close_messages
from .errors import FdBrokerError
from .kernel import close_all, no_descriptor, pidfd_of_self, poll
from .messages import Message

PROTOCOL_MIN = PROTOCOL_MAX = 1

def connect(control: str, timeout: float) -> socket.socket:
    """A socket to the listening process, if that may be believed: this user or root, in a folder that no other user may write to."""
    until = time.monotonic() + timeout
    while True:
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise no_descriptor(error) from error
        try:
            sock.setblocking(False)
            sock.connect(control)
            break
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError) as error:
            sock.close()
            if time.monotonic() >= until:
                why = f'nobody listens at {control}: is fd-broker serve running?'
                raise FdBrokerError('ERR_FDB_CONTROL_PATH', why, True) from error
            time.sleep(0.02)
        except OSError as error:
            sock.close()
            raise FdBrokerError('ERR_FDB_CONTROL_PATH', f'cannot connect to {control}: {error}') from error
    try:
        _check_trust(sock, control)
    except BaseException:
        sock.close()
        raise
    return sock


def _check_trust(sock: socket.socket, control: str) -> None:
    trusted = (0, os.geteuid())
    _, uid, _ = struct.unpack('3i', sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    folder = os.stat(os.path.dirname(control) or '.')
    if uid not in trusted:
        raise FdBrokerError('ERR_FDB_DENIED', f'{control} is not to be trusted: a process of uid {uid} listens there')
    open_to_others = folder.st_mode & 0o022 and not folder.st_mode & stat.S_ISVTX
    if folder.st_uid not in trusted or open_to_others:
        raise FdBrokerError('ERR_FDB_CONTROL_PATH', f'others may replace {control}: use a folder of your own, mode 0700')


_INSTANCE = str(uuid.uuid4())
_CAPABILITIES = ['writes']
DRAINING = 4

def greet(channel: Channel, hello: Mapping[str, Any], timeout: float) -> tuple[Message, int | None, list[Received]]:
    """Says Hello; (Welcome, the holder's pidfd or None, what has come behind it)."""
    own = pidfd_of_self()
    try:
        whole = {
            'version_min': PROTOCOL_MIN, 'version_max': PROTOCOL_MAX, 'capabilities': _CAPABILITIES, 'pid': os.getpid(),
            'instance': _INSTANCE, **hello,
        }
        channel.send('hello', whole, own)
        channel.greeted = True
    finally:
        close_all(own)
    until = time.monotonic() + timeout
    while True:
        if not poll(channel.fileno(), select.POLLIN, until - time.monotonic()):
            raise FdBrokerError('ERR_FDB_DEADLINE', 'the holder did not answer our Hello', True)
        messages = channel.receive()
        if messages is None:
            raise FdBrokerError('ERR_FDB_CHANNEL_CLOSED', 'the holder closed the connection before its Welcome', True)
        for i, (body, message, fds) in enumerate(messages):
            if body == 'welcome':
                close_all(fds[1:])
                return message, (fds[0] if fds else None), messages[i + 1:]
            close_all(fds)
            if body == 'reject':
                close_messages(messages[i + 1:])
                code = message.get('code') or 'ERR_FDB_REJECTED'
                raise FdBrokerError(code, message.get('message', ''), message.get('retryable', False))
