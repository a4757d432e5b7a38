"""Memory files of the log."""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator

from .errors import FdBrokerError
from .messages import Message, decode

_F_GET_SEALS = getattr(fcntl, 'F_GET_SEALS', 1034)
SEAL_WRITE = 8
_MAGIC, _FORMAT = 'fdb-state', 1
_SNAPSHOT = 1
_MOST_HEADER = 4096
MOST_RECORD = 16 * 1024 * 1024
_BLANK = 1 << 20

def state_frame(payload: bytes) -> bytes:
    """A frame of the log: length and CRC-32, both 32 bits and little-endian, then the payload."""
    return struct.pack('<II', len(payload), zlib.crc32(payload)) + payload


def damaged(segment: Segment, offset: int, why: str) -> FdBrokerError:
    return FdBrokerError('ERR_FDB_STATE_DAMAGED', f'the segment of epoch {segment.epoch} is damaged at offset {offset}: {why}')


class Segment:
    """One memory file of the log, with its descriptor. The file is never mapped for writing: that would keep the holder from sealing it."""

    def __init__(self, fd: int, writable: bool = False) -> None:
        self.fd = fd
        self.writable = writable
        self._read_header()
        self.end = self.start
        """Where reading goes on, behind the last whole record."""
        self.final = False
        """Sealed, and read to its end."""

    def _read_header(self) -> None:
        head = os.pread(self.fd, 8 + _MOST_HEADER, 0)
        length, checksum = struct.unpack_from('<II', head) if len(head) >= 8 else (0, 0)
        payload = head[8:8 + length]
        if not 0 < length <= _MOST_HEADER or len(payload) < length or zlib.crc32(payload) != checksum:
            raise FdBrokerError('ERR_FDB_STATE_FORMAT', 'not a state segment: it begins with no header')
        header = decode('Header', payload)
        if header.get('magic') != _MAGIC:
            raise FdBrokerError('ERR_FDB_STATE_FORMAT', 'not a state segment: its header says something else')
        if header.get('format') != _FORMAT or header.get('kind', 0) > _SNAPSHOT:
            raise FdBrokerError('ERR_FDB_STATE_FORMAT', f"the segment has format {header.get('format')}: use a newer release")
        self.epoch = header.get('epoch', 0)
        self.snapshot = header.get('kind', 0) == _SNAPSHOT
        self.start = 8 + length

    @property
    def sealed(self) -> bool:
        """Whether the file can no longer be written. Asks the kernel each time."""
        try:
            return bool(fcntl.fcntl(self.fd, _F_GET_SEALS) & SEAL_WRITE)
        except OSError:
            return False

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def records(self) -> Iterator[Message]:
        """Records behind `end`, which moves with each that is taken. Stops before a record that is not whole."""
        sealed, size = self.sealed, self.size
        while self.end < size:
            head = os.pread(self.fd, 8, self.end)
            if len(head) < 8:
                return
            length, checksum = struct.unpack('<II', head)
            following = self.end + 8 + length
            if length == 0 or following > size:
                return
            if length > MOST_RECORD:
                raise FdBrokerError('ERR_FDB_STATE_LIMIT', f'a record of {length} bytes')
            payload = os.pread(self.fd, length, self.end + 8)
            if len(payload) < length:
                return
            if zlib.crc32(payload) != checksum:
                if not sealed or following == size:
                    return
                raise damaged(self, self.end, 'wrong checksum, and more behind it')
            try:
                record = decode('Record', payload)
            except FdBrokerError as error:
                raise damaged(self, self.end, error.message) from None
            if record.get('epoch', 0) != self.epoch:
                raise damaged(self, self.end, f"a record of epoch {record.get('epoch', 0)}")
            yield record
            self.end = following

    def append(self, data: bytes) -> bool:
        """Appends; returns False if the right to write here has ended. Raises ERR_FDB_STATE_FULL."""
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self.fd, data[written:], self.end + written)
        except PermissionError:
            return False
        except OSError as error:
            # Half a record must not stand before the next.
            self.cut(written)
            raise FdBrokerError('ERR_FDB_STATE_FULL', f'the state cannot be written: {error}', True) from error
        self.end += written
        return True

    def cut(self, count: int) -> None:
        """Takes away so many bytes behind the last whole record, or blanks them where a seal forbids to cut."""
        if count <= 0 or self.sealed:
            return
        try:
            os.ftruncate(self.fd, self.end)
            return
        except OSError:
            pass
        try:
            for at in range(0, count, _BLANK):
                os.pwrite(self.fd, bytes(min(count - at, _BLANK)), self.end + at)
        except OSError:
            pass

    def close(self) -> None:
        os.close(self.fd)
