"""Frames: bytes and descriptors over a Unix stream socket."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from .errors import FdBrokerError
from .kernel import close_all

FRAME_HEADER = 8
FRAME_MAGIC = 0xFD
FRAMING_VERSION = 1
FDS_PER_BATCH = 253
MOST_FRAME_FDS = FRAME_HEADER * FDS_PER_BATCH
MOST_PAYLOAD = 16 * 1024 * 1024

def frame(payload: bytes, fds: int = 0) -> bytes:
    """One frame: eight bytes of header, then the payload."""
    if len(payload) > MOST_PAYLOAD:
        raise FdBrokerError('ERR_FDB_FRAME_TOO_LARGE', f'{len(payload)} bytes are more than {MOST_PAYLOAD}')
    if fds > MOST_FRAME_FDS:
        raise FdBrokerError('ERR_FDB_FRAME_TOO_MANY_FDS', f'{fds} descriptors are more than {MOST_FRAME_FDS}')
    return struct.pack('<BBHI', FRAME_MAGIC, FRAMING_VERSION, fds, len(payload)) + payload


class FrameDecoder:
    """Makes frames of what recvmsg returned, in that order. Descriptors come no later than the first byte that they were sent with."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._fds: list[int] = []

    def push(self, data: bytes, fds: Sequence[int] = ()) -> None:
        self._bytes += data
        self._fds += fds
        if len(self._fds) > MOST_FRAME_FDS + FDS_PER_BATCH:
            raise FdBrokerError('ERR_FDB_FDS_UNEXPECTED', 'more descriptors wait than frames may have')

    def next(self) -> tuple[bytes, list[int]] | None:
        """(payload, descriptors), or None when more is needed."""
        head = bytes(self._bytes[:FRAME_HEADER])
        if head and head[0] != FRAME_MAGIC:
            raise FdBrokerError('ERR_FDB_NOT_FD_BROKER', f'the first byte of a frame is 0x{head[0]:02x}, not 0xfd')
        if len(head) > 1 and head[1] != FRAMING_VERSION:
            raise FdBrokerError('ERR_FDB_NOT_FD_BROKER', f'the peer uses framing version {head[1]}, not {FRAMING_VERSION}')
        if len(head) < FRAME_HEADER:
            if not head and self._fds:
                raise FdBrokerError('ERR_FDB_FDS_UNEXPECTED', 'descriptors arrived that no frame claims')
            return None
        _, _, fds, length = struct.unpack('<BBHI', head)
        if length > MOST_PAYLOAD:
            raise FdBrokerError('ERR_FDB_FRAME_TOO_LARGE', f'a frame of {length} bytes is more than {MOST_PAYLOAD}')
        if fds > MOST_FRAME_FDS:
            raise FdBrokerError('ERR_FDB_FRAME_TOO_MANY_FDS', f'a frame with {fds} descriptors')
        end = FRAME_HEADER + length
        if len(self._bytes) < end:
            if len(self._fds) > fds:
                raise FdBrokerError('ERR_FDB_FDS_UNEXPECTED', 'descriptors arrived that no frame claims')
            return None
        if len(self._fds) < fds:
            raise FdBrokerError('ERR_FDB_FDS_MISSING', f'a frame announced {fds} descriptors and brought {len(self._fds)}')
        payload = bytes(self._bytes[FRAME_HEADER:end])
        del self._bytes[:end]
        taken, self._fds = self._fds[:fds], self._fds[fds:]
        return payload, taken

    def close(self) -> None:
        close_all(self._fds)
        self._fds = []
