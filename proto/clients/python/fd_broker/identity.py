"""Verifies descriptors that arrive."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Sequence

from .errors import FdBrokerError
from .messages import Message

_FAMILIES: dict[int, str] = {socket.AF_INET: 'inet', socket.AF_INET6: 'inet6', socket.AF_UNIX: 'unix'}
_TYPES: dict[int, str] = {socket.SOCK_STREAM: 'stream', socket.SOCK_DGRAM: 'dgram', socket.SOCK_SEQPACKET: 'seqpacket'}
_SO_PROTOCOL, _SO_DOMAIN, _SO_COOKIE = 38, 39, 57

def identity_of(fd: int) -> Message:
    """The kernel's description of a descriptor, as an Identity."""
    found = os.fstat(fd)
    dev, ino = str(found.st_dev), str(found.st_ino)
    if not stat.S_ISSOCK(found.st_mode):
        kinds = {
            stat.S_IFREG: 'file', stat.S_IFDIR: 'dir', stat.S_IFIFO: 'fifo', stat.S_IFCHR: 'char', stat.S_IFBLK: 'block',
            0: 'anon',
        }
        return {'type': kinds.get(stat.S_IFMT(found.st_mode), 'other'), 'dev': dev, 'ino': ino}
    sock = socket.socket(fileno=fd)
    try:
        option = sock.getsockopt
        identity = {
            'type': 'socket',
            'dev': dev,
            'ino': ino,
            'family': _FAMILIES.get(option(socket.SOL_SOCKET, _SO_DOMAIN), 'other'),
            'socket_type': _TYPES.get(option(socket.SOL_SOCKET, socket.SO_TYPE), 'other'),
            'protocol': option(socket.SOL_SOCKET, _SO_PROTOCOL),
            'accepting': option(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) > 0,
        }
        try:
            identity['cookie'] = str(struct.unpack('=Q', option(socket.SOL_SOCKET, _SO_COOKIE, 8))[0])
        except OSError:
            pass
        name = sock.getsockname()
        if identity['family'] == 'unix':
            identity['abstract'] = isinstance(name, bytes)
            identity['address'] = name[1:].decode(errors='replace') if isinstance(name, bytes) else name
        elif identity['family'] in ('inet', 'inet6'):
            identity['address'], identity['port'] = name[0], name[1]
        return identity
    finally:
        sock.detach()


def difference(told: Message, got: Message) -> str | None:
    """Why a descriptor is not the one that was announced; None: it is."""
    if told.get('type', 'other') != got['type']:
        return f"expected a {told.get('type')}, got a {got['type']}"
    if got['type'] == 'socket':
        for fact, absent in (('family', ''), ('socket_type', ''), ('protocol', 0), ('accepting', False)):
            if told.get(fact, absent) != got[fact]:
                return f'{fact} should be {told.get(fact, absent)}, got {got[fact]}'
        if told.get('cookie') and got.get('cookie'):
            return None if told['cookie'] == got['cookie'] else 'it is another socket'
    same = told.get('dev') == got['dev'] and told.get('ino') == got['ino']
    return None if same else 'it is another file or socket'


def verify(items: Sequence[Message], fds: Sequence[int]) -> None:
    """Each descriptor must be the very socket or file that was announced."""
    if len(items) != len(fds):
        raise FdBrokerError('ERR_FDB_FDS_MISSING', f'{len(items)} descriptors are named and {len(fds)} came')
    for item, fd in zip(items, fds):
        try:
            why = difference(item.get('identity', {}), identity_of(fd))
        except OSError as error:
            why = f'it cannot be looked at: {error}'
        if why is not None:
            raise FdBrokerError('ERR_FDB_FD_MISMATCH', f"descriptor {item.get('name', '')!r} is not what was announced: {why}")
