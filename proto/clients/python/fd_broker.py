"""A member of fd-broker in Python: a server that is replaced by its next version, in any language, without refusing,
failing or closing one connection.

It speaks the protocol that docs/protocol.md describes, with a daemon (``fd-broker serve``) as the holder. Linux, Python
3.9 or newer, the standard library alone.

    member = fd_broker.join('/run/shop/daemon.sock', 'shop')
    prices = member.section('prices')
    web = member.listen('web', 'tcp://0.0.0.0:8080')
    server = http.server.ThreadingHTTPServer(('', 0), Handler, bind_and_activate=False)
    threading.Thread(target=web.serve, args=(server,)).start()
    member.ready()
    member.wait()           # until another version serves, for good
    server.server_close()   # ends with the last request
"""

import fcntl
import hashlib
import json
import os
import queue
import select
import socket
import stat
import struct
import sys
import termios
import threading
import time
import uuid
import zlib
from collections import OrderedDict

__all__ = ['FdBrokerError', 'Listener', 'ListenerClosed', 'Member', 'Section', 'join']
__version__ = '0.4.0'

PROTOCOL_MIN = PROTOCOL_MAX = 1

# ---- errors


class FdBrokerError(Exception):
    """What went wrong, with the stable code that docs/errors.md lists. ``retryable``: it may pass."""

    def __init__(self, code, message, retryable=False):
        super().__init__(f'{code}: {message}')
        self.code = code
        self.message = message
        self.retryable = retryable


class ListenerClosed(Exception):
    """This process accepts no more on a listener, for good."""


# ---- messages: the fields of proto/wire.proto and proto/state.proto that a member reads or writes

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

# Kinds: u number, b bool, d double, s text, y bytes, else a message; `*` behind it: repeated, `=` before it: told also when it is 0.
MESSAGES = {
    'Envelope': {
        1: ('hello', 'Hello'), 2: ('welcome', 'Welcome'), 3: ('reject', 'Reject'), 4: ('offer', 'Offer'),
        5: ('fds', 'Fds'), 6: ('fds_ack', 'FdsAck'), 7: ('ready', 'Ready'), 8: ('freeze', 'Empty'),
        9: ('frozen', 'At'), 10: ('sealed', 'At'), 11: ('prepared', 'At'), 12: ('commit', 'Granted'),
        13: ('serving', 'Granted'), 14: ('retire', 'Empty'), 15: ('resume', 'Empty'), 16: ('reinstate', 'Granted'),
        17: ('released', 'Empty'), 18: ('fenced', 'Empty'), 19: ('abort', 'Abort'), 20: ('gone', 'Empty'),
        21: ('back', 'Back'), 22: ('heartbeat', 'Heartbeat'), 23: ('end_probation', 'EndProbation'),
        24: ('register', 'Register'), 25: ('registered', 'Registered'), 30: ('status_request', 'Empty'),
        31: ('status', 'Status'), 32: ('upgrade_request', 'UpgradeRequest'), 33: ('progress', 'Progress'),
        34: ('result', 'Result'), 35: ('command', 'Command'), 36: ('command_reply', 'CommandReply'),
        43: ('write', 'Write'), 44: ('written', 'Written'), 47: ('unfit', 'Unfit'), 50: ('quiesce', 'Granted'),
        51: ('quiesced', 'Granted'), 52: ('unquiesce', 'Empty'), 70: ('tell_appended', 'TellAppended'),
        71: ('appended', 'Empty'),
    },
    'Empty': {},
    'Hello': {
        1: ('version_min', 'u'), 2: ('version_max', 'u'), 3: ('capabilities', 's*'), 4: ('service', 's'),
        5: ('intent', 'u'), 6: ('pid', 'u'), 8: ('generation', 'u'), 9: ('incarnation', 's'), 10: ('top', 'u'),
        11: ('times', 'HandoffTimes'), 12: ('instance', 's'), 13: ('state_file', 's'),
        14: ('follower', 's'), 15: ('service_started_at', 'd'),
    },
    'HandoffTimes': {
        1: ('ready', '=u'), 2: ('freeze', '=u'), 3: ('prepare', '=u'), 4: ('commit', '=u'), 5: ('probation', '=u'),
        6: ('heartbeat', '=u'), 7: ('silence', '=u'), 8: ('quiesce', '=u'),
    },
    'Welcome': {
        1: ('version', 'u'), 2: ('capabilities', 's*'), 3: ('pid', 'u'), 4: ('daemon', 'b'), 5: ('incarnation', 's'),
        6: ('generation', 'u'), 7: ('service_started_at', 'd'), 8: ('heartbeat_ms', 'u'),
    },
    'Reject': {
        1: ('code', 's'), 2: ('message', 's'), 3: ('retryable', 'b'), 4: ('version_min', 'u'), 5: ('version_max', 'u'),
    },
    'Offer': {
        1: ('epoch', 'u'), 2: ('way_back', 'u'), 3: ('source', 'u'), 4: ('items', 'u'), 5: ('timeout_ms', 'u'),
        6: ('quiesce_ms', 'u'), 7: ('descriptors', 'u'),
    },
    'Fds': {1: ('index', 'u'), 2: ('last', 'b'), 3: ('items', 'Item*'), 4: ('bundle', 'u')},
    'Item': {
        1: ('role', 'u'), 2: ('name', 's'), 3: ('spec', 's'), 4: ('epoch', 'u'), 5: ('writable', 'b'),
        6: ('identity', 'Identity'),
    },
    'Identity': {
        1: ('type', 's'), 2: ('dev', 's'), 3: ('ino', 's'), 4: ('family', 's'), 5: ('socket_type', 's'),
        6: ('protocol', 'u'), 7: ('accepting', 'b'), 8: ('cookie', 's'), 9: ('address', 's'), 10: ('port', 'u'),
        11: ('abstract', 'b'),
    },
    'FdsAck': {1: ('index', 'u'), 2: ('verified', 'u'), 3: ('bundle', 'u')},
    'Position': {1: ('epoch', 'u'), 2: ('sequence', 'd'), 3: ('digest', 's')},
    'Ready': {1: ('adopted', 's*'), 2: ('refused', 's*'), 3: ('position', 'Position')},
    'At': {1: ('position', 'Position')},
    'Granted': {1: ('epoch', 'u')},
    'Abort': {1: ('code', 's'), 2: ('message', 's'), 3: ('phase', 's')},
    'Unfit': {1: ('epoch', 'u'), 2: ('code', 's'), 3: ('message', 's')},
    'Back': {1: ('role', 's'), 2: ('epoch', 'u'), 3: ('sealed', 'b'), 4: ('top', 'u'), 5: ('unfit', 'b')},
    'Heartbeat': {1: ('healthy', 'b'), 2: ('report', 's'), 3: ('unwell', 's')},
    'EndProbation': {1: ('closing', 'b')},
    'Register': {1: ('request', 'u'), 2: ('item', 'Item'), 3: ('drop', 'b'), 4: ('compacted', 'b')},
    'Registered': {1: ('request', 'u'), 2: ('code', 's'), 3: ('message', 's')},
    'Status': {1: ('json', 's')},
    'UpgradeRequest': {
        1: ('argv', 's*'), 2: ('timeout_ms', 'u'), 3: ('service', 's'), 4: ('kill_stuck', 'b'), 5: ('request', 'u'),
    },
    'Progress': {1: ('phase', 's'), 2: ('at', 'd'), 3: ('pid', 'u')},
    'Result': {
        1: ('ok', 'b'), 2: ('code', 's'), 3: ('message', 's'), 4: ('pid', 'u'), 5: ('generation', 'u'),
        6: ('retryable', 'b'), 7: ('phase', 's'), 8: ('request', 'u'),
    },
    'Command': {1: ('name', 's'), 2: ('body', 'y'), 3: ('service', 's'), 4: ('request', 'u')},
    'CommandReply': {
        1: ('request', 'u'), 2: ('ok', 'b'), 3: ('code', 's'), 4: ('message', 's'), 5: ('retryable', 'b'), 6: ('body', 'y'),
    },
    'Write': {
        1: ('number', 'u'), 2: ('request', 's'), 3: ('parts', 'y*'), 4: ('more', 'b'), 5: ('reads', 'EntryRead*'),
        6: ('source', 'u'), 7: ('durable', 'b'),
    },
    'EntryRead': {1: ('section', 's'), 2: ('key', 's'), 3: ('mark', 'y')},
    'Written': {
        1: ('number', 'u'), 2: ('outcome', 'u'), 3: ('existed', 'b'), 4: ('sequence', 'd'), 5: ('code', 's'),
        6: ('message', 's'), 7: ('retryable', 'b'),
    },
    'TellAppended': {1: ('wanted', 'b')},
    # proto/state.proto
    'Header': {1: ('magic', 's'), 2: ('format', 'u'), 3: ('epoch', 'u'), 4: ('kind', 'u'), 5: ('service', 's')},
    'Record': {
        1: ('epoch', 'u'), 2: ('sequence', 'u'), 3: ('request', 's'), 4: ('changes', 'Change*'),
        5: ('schemas', 'SectionSchema*'), 6: ('requests', 's*'), 7: ('end', 'End'), 8: ('part', 'Part'),
        9: ('request_prints', 'u*'),
    },
    'Part': {1: ('index', 'u'), 2: ('last', 'b')},
    'Change': {1: ('section', 's'), 2: ('op', 'u'), 3: ('key', 's'), 4: ('value', 'y'), 5: ('version', 'u')},
    'SectionSchema': {
        1: ('name', 's'), 2: ('version', 'u'), 3: ('min_reader', 'u'), 4: ('codec', 's'), 5: ('secret', 'b'),
    },
    'End': {1: ('entries', 'u'), 2: ('digest', 's')},
}

JOIN, BACK = 1, 2
LISTENER, NAMED, SEGMENT, CONTROL, LOCK, PIDFD, MOVE_LOG, MOVE_CHANNEL = range(1, 9)
PUT, DELETE, CLEAR = range(3)
_APPLIED, _CONFLICT, _AGAIN, _REFUSED = range(1, 5)

_MOST_DEPTH = 16


def _malformed(why):
    return FdBrokerError('ERR_FDB_MESSAGE', f'the peer sent what is no message of this protocol: {why}')


def _put_varint(out, value):
    while value > 127:
        out.append((value & 127) | 128)
        value >>= 7
    out.append(value)


def _varint(data, at, end):
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise _malformed('a number without an end')
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def encode(name, message):
    """The bytes of a message, a dict by the names of its fields. What is None, or 0 where that is what absence means, is left out."""
    out = bytearray()
    for number, (field, kind) in sorted(MESSAGES[name].items()):
        value = message.get(field)
        if value is None:
            continue
        if kind.endswith('*'):
            for one in value:
                _put_field(out, number, kind[:-1], one)
        elif kind.startswith('='):
            _put_field(out, number, kind[1:], value)
        elif kind not in 'ubdsy' or value:
            _put_field(out, number, kind, value)
    return bytes(out)


def _put_field(out, number, kind, value):
    if kind in 'ub':
        _put_varint(out, number << 3 | _VARINT)
        _put_varint(out, int(value))
    elif kind == 'd':
        _put_varint(out, number << 3 | _FIXED64)
        out += struct.pack('<d', value)
    else:
        data = value.encode() if kind == 's' else bytes(value) if kind == 'y' else encode(kind, value)
        _put_varint(out, number << 3 | _LENGTH)
        _put_varint(out, len(data))
        out += data


def decode(name, data, depth=0):
    """The message in these bytes: a dict with every field that they have. What is not known is skipped."""
    if depth > _MOST_DEPTH:
        raise _malformed('messages too deep in each other')
    fields = MESSAGES[name]
    message = {field: [] for field, kind in fields.values() if kind.endswith('*')}
    data = memoryview(data)
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise _malformed('a field of number 0')
        if wire == _VARINT:
            value, at = _varint(data, at, end)
        elif wire in (_FIXED64, _FIXED32):
            value = data[at:at + (8 if wire == _FIXED64 else 4)]
            at += 8 if wire == _FIXED64 else 4
        elif wire == _LENGTH:
            length, at = _varint(data, at, end)
            value = data[at:at + length]
            at += length
        else:
            raise _malformed(f'a field of kind {wire}')
        if at > end:
            raise _malformed('a field that is cut')
        if number in fields:
            _take_field(message, fields[number], wire, value, depth)
    return message


def _take_field(message, known, wire, value, depth):
    field, kind = known
    repeated, kind = kind.endswith('*'), kind.strip('*=')
    if kind == 'u' and repeated and wire == _LENGTH:
        at = 0
        while at < len(value):
            one, at = _varint(value, at, len(value))
            message[field].append(one)
        return
    if wire != {'u': _VARINT, 'b': _VARINT, 'd': _FIXED64}.get(kind, _LENGTH):
        return
    if kind == 'b':
        value = value != 0
    elif kind == 'd':
        value = struct.unpack('<d', value)[0]
    elif kind == 's':
        try:
            value = bytes(value).decode()
        except UnicodeDecodeError:
            raise _malformed('a text that is no UTF-8') from None
    elif kind == 'y':
        value = bytes(value)
    elif kind != 'u':
        value = decode(kind, value, depth + 1)
    if repeated:
        message[field].append(value)
    else:
        message[field] = value


def body_of(envelope):
    """What an Envelope holds: its name and the message; None: nothing that is known here."""
    return next(iter(envelope.items()), None)


# ---- frames: bytes and descriptors over a Unix stream socket

FRAME_HEADER = 8
FRAME_MAGIC = 0xFD
FRAMING_VERSION = 1
FDS_PER_BATCH = 253
MOST_FRAME_FDS = FRAME_HEADER * FDS_PER_BATCH
MOST_PAYLOAD = 16 * 1024 * 1024
# No heartbeat is sent while the peer has this much unread.
_MOST_UNREAD = 52 * 1024
_MOST_REPORT = 4096


def frame(payload, fds=0):
    """One frame: eight bytes of header, then the payload."""
    if len(payload) > MOST_PAYLOAD:
        raise FdBrokerError('ERR_FDB_FRAME_TOO_LARGE', f'{len(payload)} bytes are more than {MOST_PAYLOAD}')
    if fds > MOST_FRAME_FDS:
        raise FdBrokerError('ERR_FDB_FRAME_TOO_MANY_FDS', f'{fds} descriptors are more than {MOST_FRAME_FDS}')
    return struct.pack('<BBHI', FRAME_MAGIC, FRAMING_VERSION, fds, len(payload)) + payload


class FrameDecoder:
    """Makes frames of what recvmsg returned, in that order. Descriptors come no later than the first byte that they were sent with."""

    def __init__(self):
        self._bytes = bytearray()
        self._fds = []

    def push(self, data, fds=()):
        self._bytes += data
        self._fds += fds
        if len(self._fds) > MOST_FRAME_FDS + FDS_PER_BATCH:
            raise FdBrokerError('ERR_FDB_FDS_UNEXPECTED', 'more descriptors wait than frames may have')

    def next(self):
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

    def close(self):
        _close_all(self._fds)
        self._fds = []


def _close_all(fds):
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass


class Channel:
    """Envelopes with descriptors over a connected Unix stream socket, which it owns. One thread reads; any may send."""

    SEND_S = 10.0

    def __init__(self, sock):
        sock.setblocking(False)
        self._sock = sock
        self._decoder = FrameDecoder()
        self._sending = threading.Lock()
        self.received_at = time.monotonic()
        self.closed = False

    def fileno(self):
        return self._sock.fileno()

    def send(self, body, message, fds=()):
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
                    if not _poll(self.fileno(), select.POLLOUT, until - time.monotonic()):
                        self.close()
                        raise FdBrokerError('ERR_FDB_DEADLINE', 'the peer does not read', True) from None
                    continue
                except OSError as error:
                    raise FdBrokerError('ERR_FDB_CHANNEL_CLOSED', f'the channel is closed ({error})', True) from error
                data, fds = data[sent:], rest

    def try_send(self, body, message, fds=()):
        """As send; returns why it failed, or None."""
        try:
            self.send(body, message, fds)
        except FdBrokerError as error:
            return error
        return None

    def beat(self, health, report):
        """Sends a heartbeat, unless much waits unread: the socket of a peer that is stopped must keep room for what matters."""
        if not self.closed and self._unread() < _MOST_UNREAD:
            self.send('heartbeat', {**health, 'report': json.dumps(report)[:_MOST_REPORT]})

    def _unread(self):
        try:
            return struct.unpack('i', fcntl.ioctl(self._sock, termios.TIOCOUTQ, bytes(4)))[0]
        except OSError:
            return 0

    def end_reading(self):
        """Whoever reads hears the end; what is sent still arrives."""
        try:
            self._sock.shutdown(socket.SHUT_RD)
        except OSError:
            pass

    def receive(self):
        """Reads once. Every message that is whole now: (body, message, descriptors). None at the end of the stream."""
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(
                65536, socket.CMSG_SPACE(FDS_PER_BATCH * 4), socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            return None
        fds = []
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds += struct.unpack(f'{len(raw) // 4}i', raw[:len(raw) // 4 * 4])
        if flags & socket.MSG_CTRUNC:
            _close_all(fds)
            raise FdBrokerError('ERR_FDB_FDS_TRUNCATED', 'descriptors were lost on arrival: raise RLIMIT_NOFILE', True)
        if not data:
            _close_all(fds)
            return None
        self.received_at = time.monotonic()
        self._decoder.push(data, fds)
        return self.waiting()

    def waiting(self):
        """Messages that have arrived whole already."""
        messages, fds = [], []
        try:
            while (got := self._decoder.next()) is not None:
                payload, fds = got
                body = body_of(decode('Envelope', payload))
                if body is None:
                    _close_all(fds)
                else:
                    messages.append((body[0], body[1], fds))
                fds = []
        except FdBrokerError:
            _close_all(fds)
            _close_messages(messages)
            raise
        return messages

    def close(self):
        if self.closed:
            return
        self.closed = True
        self._decoder.close()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def release(self):
        """Closes the descriptor: only when no thread reads any more."""
        self.close()
        self._sock.close()


def _close_messages(messages):
    for _, _, fds in messages:
        _close_all(fds)


def _poll(fd, events, seconds):
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(max(0.0, seconds) * 1000))


# ---- identities: what arrives is verified, not believed

_FAMILIES = {socket.AF_INET: 'inet', socket.AF_INET6: 'inet6', socket.AF_UNIX: 'unix'}
_TYPES = {socket.SOCK_STREAM: 'stream', socket.SOCK_DGRAM: 'dgram', socket.SOCK_SEQPACKET: 'seqpacket'}
_SO_PROTOCOL, _SO_DOMAIN, _SO_COOKIE = 38, 39, 57


def identity_of(fd):
    """What the kernel says of a descriptor, as an Identity."""
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


def difference(told, got):
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


# ---- the state: segments of a log in memory files

_F_GET_SEALS = getattr(fcntl, 'F_GET_SEALS', 1034)
_SEAL_WRITE = 8
_MAGIC, _FORMAT = 'fdb-state', 1
_SNAPSHOT = 1
_MOST_HEADER = 4096
_MOST_RECORD = 16 * 1024 * 1024
_MOST_REQUESTS = 65_536
_MOST_CHANGES = 500_000
_BLANK = 1 << 20
EMPTY_DIGEST = '0' * 64


def state_frame(payload):
    """A frame of the log: length and CRC-32, both 32 bits and little-endian, then the payload."""
    return struct.pack('<II', len(payload), zlib.crc32(payload)) + payload


class Digest:
    """Of a set of entries, whatever their order: the SHA-256 of each, added in eight lanes of 32 bits."""

    def __init__(self):
        self._lanes = [0] * 8

    def add(self, section, key, value, sign=1):
        data = struct.pack('<III', len(section), len(key), len(value)) + section + key + value
        for i, lane in enumerate(struct.unpack('<8I', hashlib.sha256(data).digest())):
            self._lanes[i] = (self._lanes[i] + sign * lane) & 0xFFFFFFFF

    def remove(self, section, key, value):
        self.add(section, key, value, -1)

    def __str__(self):
        return ''.join(f'{lane:08x}' for lane in self._lanes)


def _damaged(segment, offset, why):
    return FdBrokerError('ERR_FDB_STATE_DAMAGED', f'the segment of epoch {segment.epoch} is damaged at offset {offset}: {why}')


def _verify(items, fds):
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


class Segment:
    """One memory file of the log. Owns its descriptor, once it is made. It is never mapped for writing: that would keep the holder from sealing it."""

    def __init__(self, fd, writable=False):
        self.fd = fd
        self.writable = writable
        self._read_header()
        self.end = self.start
        """Where reading goes on, behind the last whole record."""
        self.final = False
        """Sealed, and read to its end."""

    def _read_header(self):
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
    def sealed(self):
        """Nobody may write any more. The kernel's word, each time."""
        try:
            return bool(fcntl.fcntl(self.fd, _F_GET_SEALS) & _SEAL_WRITE)
        except OSError:
            return False

    @property
    def size(self):
        return os.fstat(self.fd).st_size

    def records(self):
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
            if length > _MOST_RECORD:
                raise FdBrokerError('ERR_FDB_STATE_LIMIT', f'a record of {length} bytes')
            payload = os.pread(self.fd, length, self.end + 8)
            if len(payload) < length:
                return
            if zlib.crc32(payload) != checksum:
                if not sealed or following == size:
                    return
                raise _damaged(self, self.end, 'wrong checksum, and more behind it')
            try:
                record = decode('Record', payload)
            except FdBrokerError as error:
                raise _damaged(self, self.end, error.message) from None
            if record.get('epoch', 0) != self.epoch:
                raise _damaged(self, self.end, f"a record of epoch {record.get('epoch', 0)}")
            yield record
            self.end = following

    def append(self, data):
        """False: the right to write here has ended. Raises ERR_FDB_STATE_FULL."""
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

    def cut(self, count):
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

    def close(self):
        os.close(self.fd)


class _SectionState:
    def __init__(self):
        self.entries = {}
        """Key to (value, version)."""
        self.stored = None
        """What the log says of its schema."""


class StateLog:
    """The state of a service: the segments of its log in order, and the sections that they add up to. Not safe for threads."""

    def __init__(self):
        self.segments = []
        self.sections = {}
        self.sequence = 0
        self._epoch = 0
        self._digest = Digest()
        self._count = 0
        self._requests = OrderedDict()
        self._parts = None
        """Changes of a bulk whose last record has not come."""

    @property
    def position(self):
        """Where the log stands: what both sides of a handoff compare."""
        return {'epoch': self._epoch, 'sequence': self.sequence, 'digest': str(self._digest)}

    @property
    def newest(self):
        return self.segments[-1].epoch if self.segments else -1

    def knows_request(self, request):
        return request in self._requests

    def adopt(self, segment):
        """The next segment of the log, which owns it: the snapshot first, then rising epochs."""
        if self.segments and (segment.snapshot or segment.epoch <= self.newest):
            raise FdBrokerError('ERR_FDB_STATE_ORDER', f'the segment of epoch {segment.epoch} cannot come next')
        self.segments.append(segment)

    def catch_up(self):
        """Reads what is new. A segment counts only when all before it are sealed."""
        for segment in self.segments:
            if segment.final:
                continue
            # First: what is written between the two would be missed.
            sealed = segment.sealed
            self._read(segment)
            if not sealed:
                return
            segment.final = True

    def _read(self, segment):
        first = segment.snapshot and segment.end == segment.start
        whole = not segment.snapshot or segment.final
        for record in segment.records():
            sequence = record.get('sequence', 0)
            if segment.snapshot:
                if whole:
                    raise _damaged(segment, segment.end, 'records behind the end of a snapshot')
                if not first and sequence != self.sequence:
                    raise _damaged(segment, segment.end, f'sequence {sequence} in the same snapshot')
                first = False
            elif sequence != self.sequence + 1:
                raise _damaged(segment, segment.end, f'sequence {sequence} after {self.sequence}')
            self.apply(segment, record)
            if 'end' in record:
                end = record['end']
                if end.get('entries', 0) != self._count or end.get('digest') != str(self._digest):
                    raise _damaged(segment, segment.end, 'its end says something else')
                whole = True
        if not whole:
            raise _damaged(segment, segment.end, 'the end of the snapshot is missing')

    def apply(self, segment, record):
        part = record.get('part')
        for change in record['changes']:
            if change.get('op', PUT) > CLEAR:
                raise FdBrokerError('ERR_FDB_STATE_FORMAT', f"a change of kind {change['op']}: use a newer release")
        self.sequence = record.get('sequence', 0)
        self._epoch = record.get('epoch', 0)
        if part is None or part.get('index', 0) == 0:
            # A bulk that was given up counts for nothing.
            self._parts = None
        if part is None:
            self._learn(record['schemas'])
            self._change(record['changes'])
        else:
            parts = self._parts or {'next': 0, 'changes': [], 'schemas': []}
            if part.get('index', 0) != parts['next']:
                raise _damaged(segment, segment.end, 'a part of a bulk without the part before it')
            parts['next'] += 1
            parts['changes'] += record['changes']
            parts['schemas'] += record['schemas']
            self._parts = parts
            if not part.get('last'):
                return
            self._parts = None
            self._learn(parts['schemas'])
            self._change(parts['changes'])
        for request in [record.get('request', ''), *record['requests']]:
            if request and request not in self._requests:
                self._requests[request] = self.sequence
                if len(self._requests) > _MOST_REQUESTS:
                    self._requests.popitem(last=False)

    def section(self, name):
        if name not in self.sections:
            self.sections[name] = _SectionState()
        return self.sections[name]

    def _learn(self, schemas):
        for told in schemas:
            section = self.section(told.get('name', ''))
            section.stored = merged_schema(section.stored, told)

    def _change(self, changes):
        for change in changes:
            name, key, op = change.get('section', ''), change.get('key', ''), change.get('op', PUT)
            section = self.section(name)
            if op == CLEAR:
                for one in list(section.entries):
                    self._remove(name, section, one)
                continue
            self._remove(name, section, key)
            if op == PUT:
                value = change.get('value', b'')
                section.entries[key] = (value, change.get('version', 0))
                self._digest.add(name.encode(), key.encode(), value)
                self._count += 1

    def _remove(self, name, section, key):
        before = section.entries.pop(key, None)
        if before is not None:
            self._digest.remove(name.encode(), key.encode(), before[0])
            self._count -= 1

    def close(self):
        for segment in self.segments:
            segment.close()
        self.segments = []


def merged_schema(known, told):
    """What the log says of a section that was told of it twice: the lowest reader never falls, a secret stays one."""
    if known is None:
        return told
    newer = told if told.get('version', 0) >= known.get('version', 0) else known
    return {
        'name': newer.get('name', ''),
        'version': newer.get('version', 0),
        'min_reader': max(known.get('min_reader', 0), told.get('min_reader', 0)),
        'codec': newer.get('codec', ''),
        'secret': bool(known.get('secret') or told.get('secret')),
    }


# ---- the machine: what a member of a daemon does, and in which order. Pure; test/vectors/member.json holds it to the real one


def initial_member():
    return {
        'phase': 'joining', 'holds': False, 'accepting': False, 'epoch': -1, 'source': -1, 'wayBack': -1, 'top': -1,
        'link': 'up', 'unfit': False, 'unheard': False,
    }


_RIGHT = ('beginning', 'serving', 'unfit')
_OVER = ('leaving', 'gone')


def step_member(state, event):
    """(the next state, what is to be done, in this order)."""
    return _STEPS.get(event['type'], _same)(state, event)


def _same(state, _event=None):
    return state, []


def _send(kind, **facts):
    return {'type': 'send', 'message': {'kind': kind, **facts}}


def _do(kind, **facts):
    return {'type': kind, **facts}


def _on_message(state, event):
    message = event['message']
    kind, phase = message['kind'], state['phase']
    if kind == 'offer':
        if phase != 'joining' or state['holds']:
            return _same(state)
        epochs = {name: message[name] for name in ('epoch', 'wayBack', 'source')}
        return {**state, **epochs, 'holds': True, 'top': max(state['top'], message['wayBack'])}, []
    if kind == 'quiesce':
        return (state, [_do('quiesce', epoch=message['epoch'])]) if phase in ('serving', 'unfit') else _same(state)
    if kind == 'unquiesce':
        return (state, [_do('unquiesce')]) if phase == 'serving' else _same(state)
    if kind == 'freeze':
        if phase == 'unfit':
            return state, [_send('frozen')]
        if phase != 'serving':
            return _same(state)
        return {**state, 'phase': 'frozen'}, [_do('freeze'), _send('frozen')]
    if kind == 'sealed':
        if phase not in ('ready', 'orphan'):
            return _same(state)
        return state, [_do('carry', below=state['epoch']), _send('prepared')]
    if kind == 'commit':
        # Turned away before it began, if the segment is sealed: who decides says what follows.
        if phase not in ('ready', 'orphan') or event['sealed']:
            return _same(state)
        return _begin({**state, 'epoch': message['epoch']})
    if kind == 'retire':
        if phase == 'standby' and state['accepting']:
            return {**state, 'accepting': False}, [_do('stopAccepting')]
        if phase not in (*_RIGHT, 'frozen', 'orphan'):
            return _same(state)
        standby = {**state, 'phase': 'standby', 'accepting': False, 'unheard': False}
        return standby, [_do('endWriting'), _do('stopAccepting')]
    if kind == 'resume':
        # It is to accept, whether or not it hears its holder.
        if phase == 'orphan' and state['unheard']:
            return {**state, 'unheard': False}, []
        if phase not in ('standby', 'unfit') or state['accepting']:
            return _same(state)
        return {**state, 'accepting': True}, [_do('accept')]
    if kind == 'reinstate':
        if event['sealed'] or not state['holds'] or phase in ('joining', *_OVER):
            return _same(state)
        return _begin({**state, 'epoch': message['epoch']})
    if kind == 'released':
        return _leave(state) if phase in ('standby', 'orphan') else _same(state)
    if kind in ('fenced', 'abort'):
        if phase in ('joining', 'ready'):
            return _give_up(state)
        return _same(state) if phase in _OVER else _leave(state)
    return _same(state)


def _begin(state):
    """Accept first, then take over what others acknowledged, then write; Serving is said when all that is done."""
    epoch = state['epoch']
    following = {
        **state, 'phase': 'beginning', 'accepting': True, 'unfit': False, 'unheard': False, 'top': max(state['top'], epoch),
    }
    effects = [] if state['accepting'] else [_do('accept')]
    return following, [*effects, _do('carry', below=epoch), _do('write', epoch=epoch)]


def _on_begun(state, event):
    if state['phase'] != 'beginning' or state['epoch'] != event['epoch']:
        return _same(state)
    return {**state, 'phase': 'serving'}, [_send('serving', epoch=event['epoch'])]


def _on_failed(state, event):
    effect, phase = event['effect'], state['phase']
    if effect == 'back':
        return _on_lost(state, event)
    if effect == 'follow':
        return _say_unfit(state) if phase == 'standby' and not state['unfit'] else _same(state)
    if effect == 'accept':
        if phase == 'beginning':
            return _unfit({**state, 'accepting': False})
        if phase == 'unfit':
            return {**state, 'accepting': False}, []
        if phase != 'standby' or not state['accepting']:
            return _same(state)
        return _say_unfit({**state, 'accepting': False}, [_do('stopAccepting')])
    if event.get('epoch') != state['epoch']:
        return _same(state)
    if phase == 'beginning':
        return _unfit(state)
    return _give_up(state) if phase == 'ready' and state['link'] == 'up' else _same(state)


def _unfit(state):
    return _say_unfit({**state, 'phase': 'unfit'}, [_do('endWriting')])


def _say_unfit(state, before=()):
    said = [_send('unfit', epoch=state['epoch'])] if state['link'] == 'up' else []
    return {**state, 'unfit': True}, [*before, *said]


def _on_adopted(state, _event):
    if state['phase'] != 'joining' or not state['holds']:
        return _same(state)
    following = {**state, 'phase': 'ready'}
    if state['link'] == 'down':
        return following, [_do('judge'), _do('reconnect')]
    return following, [_send('ready')]


def _on_refused(state, _event):
    return _give_up(state) if state['phase'] in ('joining', 'ready') else _same(state)


def _on_lost(state, _event):
    if state['link'] != 'up':
        return _same(state)
    down = {**state, 'link': 'down'}
    if state['phase'] == 'joining':
        return (down, [_do('judge')]) if state['holds'] else _exit(down)
    return (down, []) if state['phase'] in _OVER else (down, [_do('reconnect')])


def _on_deadline(state, _event):
    if state['phase'] == 'joining':
        return (state, [_do('judge')]) if state['holds'] else _give_up(state)
    if state['phase'] == 'ready':
        return state, [_do('judge')]
    if state['phase'] == 'frozen':
        return {**state, 'phase': 'serving'}, [_do('thaw')]
    return _same(state)


def _on_fate(state, event):
    phase = state['phase']
    if event['fate'] == 'alive':
        if phase == 'joining' or (phase == 'ready' and state['link'] == 'up'):
            return _give_up(state)
        return _same(state)
    down = state if state['link'] == 'down' else {**state, 'link': 'down'}
    if phase == 'serving' and not event['sealed']:
        return down, [_do('unquiesce')]
    return _orphan(down) if phase in ('ready', 'standby') else (down, [])


def _on_silent(state, _event):
    """A holder that is stopped is as good as dead to those who connect: somebody has to accept."""
    if state['phase'] not in ('ready', 'standby'):
        return _same(state)
    return _orphan({**state, 'unheard': state['phase'] == 'standby' and not state['accepting']})


def _on_heard(state, _event):
    """The silence was no end: whatever the holder has decided meanwhile, it says next."""
    if state['phase'] != 'orphan' or not state['unheard'] or state['link'] != 'up':
        return _same(state)
    return {**state, 'phase': 'standby', 'accepting': False, 'unheard': False}, [_do('stopAccepting')]


def _orphan(state):
    effects = [] if state['accepting'] else [_do('accept')]
    return {**state, 'phase': 'orphan', 'accepting': True}, effects


def _on_reconnected(state, event):
    phase = state['phase']
    if phase in ('joining', *_OVER):
        return _same(state)
    role = 'orphan' if phase in ('beginning', 'unfit') else phase
    said = _send('back', role=role, epoch=state['epoch'], top=state['top'], sealed=event['sealed'])
    if state['unfit']:
        said['message']['unfit'] = True
    up = {**state, 'link': 'up', 'unheard': False}
    if not event['restarted'] or phase not in ('ready', 'standby'):
        return up, [said]
    # The new holder does not know yet who serves: until it does, everybody who can, accepts.
    effects = [said] if state['accepting'] else [_do('accept'), said]
    return {**up, 'phase': 'orphan', 'accepting': True}, effects


def _on_leave(state, _event):
    if state['phase'] in _OVER:
        return _same(state)
    return _give_up(state) if state['phase'] in ('joining', 'ready') else _leave(state)


def _on_quiesced(state, event):
    return (state, [_send('quiesced', epoch=event['epoch'])]) if state['phase'] in ('serving', 'unfit') else _same(state)


def _on_shared(state, event):
    return ({**state, 'top': event['top']}, []) if event['top'] > state['top'] else _same(state)


def _on_drained(state, _event):
    return ({**state, 'phase': 'gone'}, [_do('exit')]) if state['phase'] == 'leaving' else _same(state)


def _give_up(state):
    """Before Commit: leave nothing behind, and say that it is so."""
    return _exit(state, [_send('abort')] if state['link'] == 'up' else [])


def _exit(state, farewell=()):
    effects = [_do('closeListeners')] if state['holds'] else []
    return {**state, 'phase': 'gone', 'holds': False, 'accepting': False}, [*effects, *farewell, _do('exit')]


def _leave(state):
    """After having served: close the listeners, drain, then end."""
    phase = state['phase']
    effects = [_do('endWriting')] if phase in (*_RIGHT, 'frozen') else []
    if state['accepting'] or phase == 'unfit':
        effects.append(_do('stopAccepting'))
    effects.append(_do('closeListeners'))
    if state['link'] == 'up':
        effects.append(_send('gone'))
    effects.append(_do('drain'))
    return {**state, 'phase': 'leaving', 'holds': False, 'accepting': False}, effects


_STEPS = {
    'message': _on_message, 'adopted': _on_adopted, 'refused': _on_refused, 'lost': _on_lost, 'deadline': _on_deadline,
    'fate': _on_fate, 'begun': _on_begun, 'failed': _on_failed, 'reconnected': _on_reconnected, 'leave': _on_leave,
    'silent': _on_silent, 'heard': _on_heard, 'quiesced': _on_quiesced, 'shared': _on_shared, 'drained': _on_drained,
}


# ---- listeners

_BACKLOG = 4096


def parse_spec(spec):
    """`tcp://HOST:PORT`, `tcp://[V6]:PORT`, `tcp://*:PORT` or `unix:/PATH`, with `?backlog=N`, `?reusePort`, `?mode=0660`."""
    head, _, query = spec.partition('?')
    options = dict(pair.partition('=')[::2] for pair in query.split('&') if pair)

    def refuse(why):
        return FdBrokerError('ERR_FDB_SPEC', f'the listener {spec} is wrong: {why}')

    unknown = set(options) - {'backlog', 'reusePort', 'mode'}
    if unknown:
        raise refuse(f'{sorted(unknown)[0]} is not known here')
    backlog = int(options.get('backlog') or _BACKLOG)
    if head.startswith('unix:'):
        path = head[5:]
        path = path[2:] if path.startswith('///') else path
        path = path.replace('%3F', '?').replace('%25', '%')
        if not path.startswith('/'):
            raise refuse('its path must be absolute')
        mode = int(options['mode'], 8) if 'mode' in options else None
        return {'kind': 'unix', 'host': '', 'port': 0, 'path': path, 'backlog': backlog, 'mode': mode}
    if not head.startswith('tcp://'):
        raise refuse('write tcp://HOST:PORT or unix:/PATH')
    host, colon, port = head[6:].rpartition(':')
    if not colon or not port.isdigit() or int(port) > 65535:
        raise refuse('its port is missing')
    both = host == '*'
    host = '::' if both else host[1:-1] if host.startswith('[') else host
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        socket.inet_pton(family, host)
    except OSError:
        raise refuse('its host must be an IP address') from None
    reuse_port = options.get('reusePort', 'false') in ('', 'true', '1')
    return {
        'kind': 'tcp', 'host': host, 'port': int(port), 'path': '', 'backlog': backlog, 'family': family, 'both': both,
        'reuse_port': reuse_port,
    }


def _same_address(one, other):
    return all(one[fact] == other[fact] for fact in ('kind', 'host', 'port', 'path'))


def _bind(spec):
    try:
        if spec['kind'] == 'unix':
            return _bind_unix(spec)
        sock = socket.socket(spec['family'], socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if spec['reuse_port']:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if spec['family'] == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if spec['both'] else 1)
        sock.bind((spec['host'], spec['port']))
        sock.listen(spec['backlog'])
        return sock.detach()
    except OSError as error:
        raise FdBrokerError('ERR_FDB_BIND', f'cannot listen on {spec}: {error}') from error


def _bind_unix(spec):
    path = spec['path']
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
    except OSError:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(path) == 0:
                raise
        # Nobody listens there any more.
        os.unlink(path)
        sock.bind(path)
    if spec['mode'] is not None:
        os.chmod(path, spec['mode'])
    sock.listen(spec['backlog'])
    return sock.detach()


class Listener:
    """A listening socket that outlives this process. Accept by :meth:`accept` or :meth:`serve`, which keep to whose turn it is."""

    _LOOK_S = 0.1

    def __init__(self, member, name, spec, fd, adopted):
        self._member = member
        self.name = name
        self.spec = spec
        self.adopted = adopted
        """It was handed over, not bound here."""
        self.accepting = False
        """Whether it is this process's turn."""
        self.closed = False
        # The file's flags are those of every process that holds it: nobody may make it block.
        os.set_blocking(fd, False)
        self._socket = socket.socket(fileno=fd)

    @property
    def address(self):
        return self._socket.getsockname()

    def accept(self, timeout=None):
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
                    pass
                except ConnectionAbortedError:
                    continue
            self._check(until)
            _poll(self._socket.fileno(), select.POLLIN, self._LOOK_S if until is None else min(self._LOOK_S, until - time.monotonic()))

    def _check(self, until):
        if until is not None and time.monotonic() >= until:
            raise TimeoutError(f'nobody connected to {self.name}')

    def serve(self, server):
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

    def _close(self):
        self.accepting = False
        if not self.closed:
            self.closed = True
            self._socket.close()


# ---- sections

_CODECS = {
    'json': (
        lambda value: json.dumps(value, ensure_ascii=False, separators=(',', ':'), allow_nan=False).encode(),
        lambda data: json.loads(data.decode()),
    ),
    'bytes': (bytes, bytes),
}


def _mark_of(entry):
    """Stands for what an entry is; empty: there is none."""
    return b'' if entry is None else hashlib.sha256(f'{entry[1]} '.encode() + entry[0]).digest()[:16]


class Section:
    """A map from text to values, kept across processes and shared with members in other languages. From any thread."""

    def __init__(self, member, name, schema):
        self._member = member
        self.name = name
        self.schema = schema
        self._encode, self._decode = _CODECS[schema['codec']]

    def get(self, key, default=None):
        entry = self._member._entries(self.name).get(key)
        return default if entry is None else self._decode(entry[0])

    def __getitem__(self, key):
        return self._decode(self._member._entries(self.name)[key][0])

    def __contains__(self, key):
        return key in self._member._entries(self.name)

    def __len__(self):
        return len(self._member._entries(self.name))

    def keys(self):
        return list(self._member._entries(self.name))

    def items(self):
        return [(key, self._decode(value)) for key, (value, _) in list(self._member._entries(self.name).items())]

    def put(self, key, value, request='', timeout=30.0):
        """Returns when it is in the log: acknowledged. `request`: an id of the caller's; a change that is tried again with it is made
        once. In a process that another has replaced, the change is made by that one."""
        self._member._write([self._put(key, value)], self, request, time.monotonic() + timeout)

    def update(self, key, change, default=None, request='', timeout=30.0):
        """Puts what `change` makes of the value that is there, and returns it. An increment, say: a get() and a put() beside it lose those that
        come between them, from another thread, or from the process that serves next. `change` is called again where the entry has become
        another one meanwhile, so it does nothing else. With a `request` that was made before, returns what is there."""
        member, until = self._member, time.monotonic() + timeout
        if request and member._made(request):
            return self.get(key, default)
        request = request or str(uuid.uuid4())
        while True:
            entry = member._entries(self.name).get(key)
            value = change(default if entry is None else self._decode(entry[0]))
            read = {'section': self.name, 'key': key, 'mark': _mark_of(entry)}
            if member._write([self._put(key, value)], self, request, until, [read]):
                return value
            if time.monotonic() >= until:
                raise FdBrokerError('ERR_FDB_DEADLINE', f'{key} of section {self.name} was another at each of the updates', True)

    def _put(self, key, value):
        return {'section': self.name, 'op': PUT, 'key': key, 'value': self._encode(value), 'version': self.schema['version']}

    def delete(self, key, request='', timeout=30.0):
        self._member._write([{'section': self.name, 'op': DELETE, 'key': key}], self, request, time.monotonic() + timeout)

    def refusal(self):
        """Why this process may not read what the log has of it; None: it may."""
        stored = self._member._log.section(self.name).stored
        if stored is None:
            return None
        if stored.get('min_reader', 0) > self.schema['version']:
            why = f"was written for readers of version {stored['min_reader']}; this process has {self.schema['version']}"
        elif stored.get('codec') and stored['codec'] != self.schema['codec']:
            why = f"was written with codec {stored['codec']}; this process has {self.schema['codec']}"
        else:
            return None
        return FdBrokerError('ERR_FDB_SCHEMA', f'section {self.name} {why}')

    def unsaid(self):
        """What the log must be told of the schema before this process writes; None: nothing."""
        stored = self._member._log.section(self.name).stored
        if stored is None:
            return self.schema
        wanted = merged_schema(stored, self.schema)
        facts = ('version', 'min_reader', 'codec', 'secret')
        return None if all((wanted.get(f) or 0) == (stored.get(f) or 0) for f in facts) else wanted


# ---- the way to the holder


def _connect(control, timeout):
    """A socket to whoever listens there, if that may be believed: this user or root, in a folder that nobody else may write to."""
    until = time.monotonic() + timeout
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
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


def _check_trust(sock, control):
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
_DRAINING = 4


def _greet(channel, hello, timeout):
    """Says Hello; (Welcome, the holder's pidfd or None, what has come behind it)."""
    own = os.pidfd_open(os.getpid()) if hasattr(os, 'pidfd_open') else None
    try:
        whole = {
            'version_min': PROTOCOL_MIN, 'version_max': PROTOCOL_MAX, 'capabilities': _CAPABILITIES, 'pid': os.getpid(),
            'instance': _INSTANCE, **hello,
        }
        channel.send('hello', whole, [] if own is None else [own])
    finally:
        if own is not None:
            os.close(own)
    until = time.monotonic() + timeout
    while True:
        if not _poll(channel.fileno(), select.POLLIN, until - time.monotonic()):
            raise FdBrokerError('ERR_FDB_DEADLINE', 'the holder did not answer our Hello', True)
        messages = channel.receive()
        if messages is None:
            raise FdBrokerError('ERR_FDB_CHANNEL_CLOSED', 'the holder closed the connection before its Welcome', True)
        for i, (body, message, fds) in enumerate(messages):
            if body == 'welcome':
                _close_all(fds[1:])
                return message, (fds[0] if fds else None), messages[i + 1:]
            _close_all(fds)
            if body == 'reject':
                code = message.get('code') or 'ERR_FDB_REJECTED'
                raise FdBrokerError(code, message.get('message', ''), message.get('retryable', False))


def join(control, service, *, health=None, times=None, timeout=10.0, log=None):
    """Takes this process's place in a service of the daemon at `control`: the first, or the next version of the one that serves, which
    still does when this returns. Then ask for sections and listeners, and call :meth:`Member.ready`.

    `health`: a function, told in heartbeats; False in probation brings the old version back. `times`: limits in milliseconds for
    handoffs in which this process is replaced (`ready`, `freeze`, `probation` …). `log`: a function that is told lines.

    Raises FdBrokerError, and nothing has changed for anybody: ERR_FDB_BUSY (retryable: another is joining), ERR_FDB_VERSION,
    ERR_FDB_SERVICE, ERR_FDB_DENIED, ERR_FDB_NOT_A_DAEMON, ERR_FDB_FD_MISMATCH, ERR_FDB_STATE_…, ERR_FDB_DEADLINE.
    """
    channel = Channel(_connect(control, timeout))
    try:
        hello = {'service': service, 'intent': JOIN, 'times': times}
        welcome, pidfd, rest = _greet(channel, hello, timeout)
    except BaseException:
        channel.release()
        raise
    if not welcome.get('daemon'):
        channel.release()
        _close_all([] if pidfd is None else [pidfd])
        why = f'process {welcome.get("pid")} on {control} holds its sockets itself: a member in Python needs fd-broker serve'
        raise FdBrokerError('ERR_FDB_NOT_A_DAEMON', why)
    member = Member(control, service, health, times or {}, log)
    try:
        member._start(channel, welcome, pidfd, rest, timeout)
    except BaseException:
        member.close()
        raise
    return member


class Member:
    """This process's part in a service. Made by :func:`join`. Its methods may be called from any thread."""

    _FREEZE_MS, _SILENCE_MS, _HEARTBEAT_MS = 1000, 3000, 250
    _RETRY_S = 0.1
    _GRACE_S = 0.1
    _VIEW_S = 2.0
    _AGAIN_S = 0.1
    _GROWN_S = 0.01
    _ASK_S = 10.0

    def __init__(self, control, service, health, times, log):
        self.control = control
        self.service = service
        self.generation = 0
        self._health = _Health(health)
        self._times = times
        self._told = log
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._state = initial_member()
        self._log = StateLog()
        self._sections = {}
        self._shelf = {}
        # The highest epoch of those that _prune has dropped.
        self._pruned = -1
        self._registry = {}
        self._listeners = {}
        self._pidfds = []
        self._offer = None
        self._bundles = {}
        self._acks = set()
        self._bundling = threading.Lock()
        """One bundle at a time, with what is said of it."""
        self._settled = None
        """The link over which the holder knows what this process has: nothing may be registered before."""
        self._registered = {}
        self._next_number = 1
        self._writing = None
        self._paused = False
        self._frozen_at = None
        self._quiesced = False
        self._served = False
        self._hooks = {'quiesce': [], 'resumed': []}
        self._incoming = _Incoming()
        self._tells_appended = self._growing = False
        self._reason = None
        self._over = False
        self._link = None
        self._links = 0
        self._holder = {}
        self._holder_pidfd = None
        self._drain = None
        self._beats = False
        self._beat_at = self._ticked_at = self._awake_since = 0.0
        self._timers = []
        self._posted = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        self._thread = threading.Thread(target=self._run, name='fd-broker', daemon=True)

    # ---- for the application

    @property
    def phase(self):
        """`joining`, `ready`, `serving`, `standby`, `leaving`, `gone` …: see docs/protocol.md."""
        return self._state['phase']

    @property
    def serving(self):
        """Whether it is this process's turn. Where it is not, answers should announce the end of their connection."""
        return self._state['phase'] in ('beginning', 'serving', 'frozen', 'orphan', 'unfit')

    @property
    def first(self):
        """Nobody served before, and there was no state."""
        return self._state['source'] == 0

    @property
    def position(self):
        """Where the state stands: epoch, sequence and a digest over all entries, equal in every process that has read the same."""
        with self._lock:
            self._follow()
            return self._log.position

    def section(self, name, codec='json', version=1, min_reader=1, secret=False):
        """A section of the state. Raises ERR_FDB_SCHEMA when this version may not read it: the one that serves goes on."""
        schema = {'name': name, 'version': version, 'min_reader': min_reader, 'codec': codec, 'secret': secret}
        if codec not in _CODECS:
            raise FdBrokerError('ERR_FDB_OPTION', f'there is no codec {codec}: give one of {", ".join(_CODECS)}')
        with self._lock:
            section = self._sections[name] = Section(self, name, schema)
            refusal = section.refusal()
        if refusal:
            self.refuse(refusal)
            raise refusal
        return section

    def listen(self, name, spec):
        """The listener of that name: the one that was handed over if it has this address, else bound here and given to the daemon."""
        wanted = parse_spec(spec)
        with self._lock:
            if name in self._listeners:
                raise FdBrokerError('ERR_FDB_LISTENER_TWICE', f'listener {name} was asked for before')
            entry = self._registry.get(name)
            adopted = entry is not None and entry['role'] == LISTENER and (
                not entry['spec'] or _same_address(parse_spec(entry['spec'].split('?')[0]), wanted)
            )
            fd = os.dup(entry['fd']) if adopted else None
        if not adopted:
            fd = _bind(wanted)
            os.set_blocking(fd, False)
            try:
                self._register({'role': LISTENER, 'name': name, 'spec': spec, 'fd': fd})
            except BaseException:
                os.close(fd)
                raise
        with self._changed:
            if not adopted:
                self._keep({'role': LISTENER, 'name': name, 'spec': spec, 'fd': os.dup(fd)})
            listener = self._listeners[name] = Listener(self, name, spec, fd, adopted)
            listener.accepting = self._state['accepting']
            self._changed.notify_all()
        return listener

    def on_quiesce(self, hook):
        """Called before another may serve, to bring to its end what must run in one process only; awaited, within the incumbent's limit."""
        self._hooks['quiesce'].append(hook)

    def on_resumed(self, hook):
        """Called when the handoff failed behind a quiesce, or this process serves again: begin that work anew."""
        self._hooks['resumed'].append(hook)

    def ready(self, timeout=60.0):
        """This process can serve: returns when it does. Raises why it does not, and the one before serves on."""
        self._post({'type': 'adopted'})
        with self._changed:
            until = time.monotonic() + timeout
            # It may be another's turn by the time that this thread wakes up.
            while not self._served:
                if self._over or self.phase in ('leaving', 'gone', 'unfit'):
                    raise self._reason or FdBrokerError('ERR_FDB_CLOSED', 'this member has left')
                if not self._changed.wait(max(0.0, until - time.monotonic())) and time.monotonic() >= until:
                    break
            else:
                return
        late = FdBrokerError('ERR_FDB_DEADLINE', f'the handoff was not complete within {timeout} s', True)
        self.refuse(late)
        raise late

    def refuse(self, error):
        """Before it serves: this version cannot take over. The one before serves on, and learns why."""
        with self._lock:
            if self.phase in ('joining', 'ready'):
                self._reason = self._reason or error
        self._post({'type': 'refused'})

    def wait(self, timeout=None):
        """Returns True when another serves for good and this process should end with its last request; False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._over or self.phase in ('leaving', 'gone'), timeout)

    def close(self):
        """Leaves. Without a successor the daemon keeps listeners and state for the next. Idempotent."""
        leaving = [{'type': 'leave'}, {'type': 'drained'}]
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            for event in leaving:
                self._post(event)
            self._thread.join(5.0)
        else:
            with self._changed:
                # Also here the daemon is told: it waits for a process that has only closed its channel.
                for event in leaving:
                    self._step(event)
                self._end()
        if self._drain is not None:
            self._drain.close()
            self._drain.join(1.0)
        with self._lock:
            for segment in self._shelf.values():
                segment.close()
            self._shelf, self._log.segments = {}, []
            _close_all(self._pidfds)
            self._pidfds = []
            if not self._thread.is_alive():
                _close_all([fd for fd in (self._wake_read, self._wake_write) if fd is not None])
                self._wake_read = self._wake_write = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- joining

    def _start(self, channel, welcome, pidfd, rest, timeout):
        self.generation = welcome.get('generation', 0)
        self._attach(channel, welcome, pidfd)
        self._settled = channel
        with self._changed:
            self._hear_all(channel, rest)
            self._thread.start()
            if not self._changed.wait_for(lambda: self._state['holds'] or self._over, timeout):
                raise FdBrokerError('ERR_FDB_DEADLINE', f'the daemon made no offer within {timeout} s', True)
            if self._over:
                raise self._reason or FdBrokerError('ERR_FDB_ABORTED', 'the daemon ended the handoff')
            try:
                self._adopt(lambda segment: segment.epoch <= self._state['source'])
                self._log.catch_up()
                # Nobody else can write: the application may fill its state before it is ready.
                if self.first:
                    self._write_in(self._state['epoch'])
            except FdBrokerError as error:
                self.refuse(error)
                raise

    def _attach(self, channel, welcome, pidfd):
        self._link = channel
        self._links += 1
        self._holder = welcome
        if self._holder_pidfd is not None:
            os.close(self._holder_pidfd)
        self._holder_pidfd = pidfd
        self._tells_appended = False
        # The daemon numbers those who send changes for each link anew.
        self._incoming = _Incoming()
        self._awake_since = time.monotonic()

    # ---- the thread that hears the holder

    def _post(self, event):
        self._posted.put(event)
        self._wake()

    def _wake(self):
        try:
            os.write(self._wake_write, b'.')
        except (BlockingIOError, OSError, TypeError):
            pass

    def _later(self, seconds, act):
        self._timers.append((time.monotonic() + seconds, act))
        self._wake()

    def _run(self):
        try:
            while True:
                with self._changed:
                    if self._over and self.phase == 'gone':
                        return
                    wait = self._tick()
                    link = self._link
                poll = select.poll()
                poll.register(self._wake_read, select.POLLIN)
                if link is not None:
                    poll.register(link.fileno(), select.POLLIN)
                poll.poll(max(0.0, wait) * 1000)
                with self._changed:
                    try:
                        while os.read(self._wake_read, 4096):
                            pass
                    except BlockingIOError:
                        pass
                    if link is not None and link is self._link:
                        self._read(link)
                    while not self._posted.empty():
                        self._step(self._posted.get())
                    self._changed.notify_all()
        except BaseException as error:
            self._warn(f'the member ends by a fault of its own: {error!r}')
            with self._changed:
                self._reason = self._reason or FdBrokerError('ERR_FDB_INTERNAL', repr(error))
                self._end()
            raise

    def _read(self, link):
        try:
            messages = link.receive()
        except FdBrokerError as error:
            self._broken(error)
            return
        if messages is None:
            self._lose()
            return
        self._hear_all(link, messages)

    def _hear_all(self, link, messages):
        for message in messages:
            if link is self._link:
                self._hear(*message)
            else:
                _close_all(message[2])

    def _lose(self):
        link, self._link = self._link, None
        if link is not None:
            link.release()
        self._drop_bundles()
        self._step({'type': 'lost'})

    def _drop_bundles(self):
        """What has come of bundles whose rest will not."""
        for items in self._bundles.values():
            _close_all([item['fd'] for item in items])
        self._bundles.clear()

    def _broken(self, error):
        """What the holder sent cannot be taken."""
        self._warn(str(error))
        self._reason = self._reason or error
        if self.phase in ('joining', 'ready'):
            self._step({'type': 'refused'})
        else:
            self._lose()

    def _tick(self):
        """What is due; seconds until the next."""
        now = time.monotonic()
        every = self._beat_s
        if now - self._ticked_at > 2 * every:
            # Stopped, or busy: silence counts from its awakening.
            self._awake_since = now
        self._ticked_at = now
        due = [act for at, act in self._timers if at <= now]
        self._timers = [(at, act) for at, act in self._timers if at > now]
        for act in due:
            act()
        if self._beats and now >= self._beat_at:
            self._beat_at = now + every
            self._health.ask()
            self._beat(now)
        following = [at for at, _ in self._timers]
        return min([every, *(at - now for at in following)])

    @property
    def _beat_s(self):
        own = self._times.get('heartbeat') or self._HEARTBEAT_MS
        wanted = self._holder.get('heartbeat_ms') or own
        return min(own, wanted) / 1000

    def _beat(self, now):
        link = self._link
        if link is None:
            return
        try:
            link.beat(self._health.said(), self._report())
        except FdBrokerError:
            link.close()
            self._wake()
        silence = (self._times.get('silence') or self._SILENCE_MS) / 1000
        if link is self._link:
            silent = now - max(link.received_at, self._awake_since) > silence
            self._step({'type': 'silent' if silent else 'heard'})

    def _report(self):
        return {'pid': os.getpid(), 'generation': self.generation, 'phase': self.phase}

    # ---- what the holder says

    def _hear(self, body, message, fds):
        if body == 'fds':
            self._take_batch(message, fds)
            return
        _close_all(fds)
        if body == 'fds_ack':
            self._acks.add((message.get('bundle', 0), message.get('index', 0)))
        elif body == 'offer':
            self._offer = message
        elif body == 'registered':
            self._registered[message.get('request', 0)] = message
        elif body == 'status_request':
            self._tell('status', {'json': json.dumps(self._status())})
        elif body == 'upgrade_request':
            self._answer_upgrade(message)
        elif body == 'command':
            self._answer_command(message)
        elif body == 'write':
            self._take_write(message)
        elif body == 'tell_appended':
            self._tells_appended = message.get('wanted', False)
            self._told_appended()
        elif body in ('reject', 'abort'):
            self._reason = self._reason or FdBrokerError(
                message.get('code') or 'ERR_FDB_ABORTED', message.get('message', ''), message.get('retryable', False)
            )
            self._step({'type': 'refused'} if body == 'reject' else self._said(body, message))
        elif body in ('quiesce', 'unquiesce', 'freeze', 'sealed', 'commit', 'retire', 'resume', 'reinstate', 'released', 'fenced'):
            self._step(self._said(body, message))

    def _said(self, kind, message):
        """`sealed`: what the kernel says now of the segment that it names, else of our own."""
        said = {'kind': kind, 'epoch': message.get('epoch', 0)} if kind in ('quiesce', 'commit', 'reinstate') else {'kind': kind}
        return {'type': 'message', 'message': said, 'sealed': self._is_sealed(said.get('epoch', self._state['epoch']))}

    def _is_sealed(self, epoch):
        """Also of a segment that was dropped, as nothing had been written before it was sealed: a word that names it is of the past."""
        segment = self._shelf.get(epoch)
        return segment.sealed if segment is not None else 0 <= epoch <= self._pruned

    def _take_batch(self, message, fds):
        """One descriptor that is not what was announced, and nothing of the handoff is taken."""
        items = message['items']
        try:
            _verify(items, fds)
        except FdBrokerError as error:
            _close_all(fds)
            self._broken(error)
            return
        number, index = message.get('bundle', 0), message.get('index', 0)
        bundle = self._bundles.setdefault(number, [])
        bundle += [{**item, 'fd': fd} for item, fd in zip(items, fds)]
        self._tell('fds_ack', {'bundle': number, 'index': index, 'verified': len(fds)})
        if message.get('last'):
            del self._bundles[number]
            try:
                self._take_bundle(bundle)
            except (FdBrokerError, OSError) as error:
                self._broken(error)

    def _take_bundle(self, items):
        """All of it, or, where something in it cannot be read, nothing: then all is closed."""
        offer, self._offer = self._offer, None
        try:
            segments = {
                at: Segment(item['fd'], item.get('writable', False)) for at, item in enumerate(items) if item.get('role') == SEGMENT
            }
            if offer is not None:
                writable = {segment.epoch for segment in segments.values() if segment.writable}
                whole = {offer.get('epoch', 0), offer.get('way_back', 0)} <= writable
                if offer.get('items', 0) != len(items) or not whole:
                    raise FdBrokerError('ERR_FDB_FDS_MISSING', 'the offer is not whole')
        except (FdBrokerError, OSError):
            _close_all([item['fd'] for item in items])
            raise
        for at, item in enumerate(items):
            role, fd = item.get('role', 0), item['fd']
            if role in (LISTENER, NAMED):
                self._keep({'role': role, 'name': item.get('name', ''), 'spec': item.get('spec', ''), 'fd': fd})
            elif role == SEGMENT:
                self._put_segment(segments[at])
            elif role == PIDFD:
                self._pidfds.append(fd)
            else:
                os.close(fd)
        if offer is None:
            self._prune()
            self._follow()
            return
        epochs = {'epoch': offer.get('epoch', 0), 'wayBack': offer.get('way_back', 0), 'source': offer.get('source', 0)}
        self._step({'type': 'message', 'message': {'kind': 'offer', **epochs}, 'sealed': False})

    def _keep(self, entry):
        before = self._registry.get(entry['name'])
        if before is not None:
            os.close(before['fd'])
        self._registry[entry['name']] = entry

    def _put_segment(self, segment):
        present = self._shelf.get(segment.epoch)
        if present is None:
            self._shelf[segment.epoch] = segment
        elif segment.writable and not present.writable and segment.snapshot == present.snapshot:
            os.close(present.fd)
            present.fd, present.writable = segment.fd, True
        else:
            segment.close()
        self._step({'type': 'shared', 'top': segment.epoch})

    def _prune(self):
        """Segments that nobody can need any more: sealed, empty, and not the one that this process wrote in last. A daemon that is killed
        leaves one behind each time."""
        for epoch, segment in list(self._shelf.items()):
            used = segment.snapshot or epoch == self._state['epoch'] or segment in self._log.segments[-1:]
            if not used and segment.sealed and segment.size <= segment.start:
                del self._shelf[epoch]
                self._pruned = max(self._pruned, epoch)
                if segment in self._log.segments:
                    self._log.segments.remove(segment)
                segment.close()

    # ---- the machine's effects

    def _step(self, event):
        before = self._state
        self._state, effects = step_member(before, event)
        if self._state['phase'] != before['phase']:
            self._warn(f"{before['phase']} -> {self._state['phase']} (epoch {self._state['epoch']})")
        for effect in effects:
            try:
                self._perform(effect)
            except (FdBrokerError, OSError) as error:
                self._warn(f"{effect['type']} failed: {error}")
                if effect['type'] in ('carry', 'write', 'accept'):
                    fault = error if isinstance(error, FdBrokerError) else FdBrokerError('ERR_FDB_INTERNAL', str(error))
                    self._reason = fault
                    epoch = effect.get('below', effect.get('epoch', 0))
                    self._step({'type': 'failed', 'effect': effect['type'], 'epoch': epoch})
                    break
        self._changed.notify_all()

    def _perform(self, effect):
        kind = effect['type']
        if kind == 'send':
            self._say(effect['message'])
        elif kind in ('accept', 'stopAccepting'):
            for listener in self._listeners.values():
                listener.accepting = kind == 'accept' and not listener.closed
        elif kind == 'closeListeners':
            for listener in self._listeners.values():
                listener._close()
            _close_all([entry['fd'] for entry in self._registry.values()])
            self._registry = {}
        elif kind == 'quiesce':
            self._quiesce(effect['epoch'])
        elif kind == 'unquiesce':
            self._resume()
        elif kind == 'freeze':
            self._paused = True
            self._frozen_at = self._log.position
            limit = 3 * (self._times.get('freeze') or self._FREEZE_MS) / 1000
            epoch = self._state['epoch']
            # The holder's limit decides; this one only keeps the service from waiting for a holder that is stuck.
            self._later(limit, lambda: self._state['epoch'] == epoch and self._step({'type': 'deadline'}))
        elif kind == 'thaw':
            self._paused = False
        elif kind == 'carry':
            self._carry(effect['below'])
        elif kind == 'write':
            self._write_in(effect['epoch'])
            self._served = True
            self._resume()
            self._step({'type': 'begun', 'epoch': effect['epoch']})
        elif kind == 'endWriting':
            self._writing = None
            self._paused = False
            self._follow()
        elif kind == 'judge':
            self._judge()
        elif kind == 'reconnect':
            self._reconnect()
        elif kind == 'drain':
            self._end_link()
        elif kind == 'exit':
            self._end()

    def _say(self, message):
        kind, epoch = message['kind'], message.get('epoch', 0)
        if kind == 'ready':
            self._beats = True
            names = list(self._registry)
            adopted = [name for name in names if name in self._listeners]
            refused = [name for name in names if name not in self._listeners]
            self._tell('ready', {'adopted': adopted, 'refused': refused, 'position': self._log.position})
        elif kind == 'frozen':
            self._tell('frozen', {'position': self._frozen_at or self._log.position})
        elif kind == 'prepared':
            self._tell('prepared', {'position': self._log.position})
        elif kind in ('serving', 'quiesced'):
            self._beats = True
            self._tell(kind, {'epoch': epoch})
        elif kind == 'gone':
            self._tell('gone', {})
        elif kind == 'abort':
            reason = self._reason or FdBrokerError('ERR_FDB_ABORTED', 'the successor gave up')
            self._tell('abort', {'code': reason.code, 'message': reason.message, 'phase': self.phase})
        elif kind == 'unfit':
            reason = self._reason or FdBrokerError('ERR_FDB_UNFIT', 'it cannot serve')
            self._tell('unfit', {'epoch': epoch, 'code': reason.code, 'message': reason.message})
        elif kind == 'back':
            facts = {name: message[name] for name in ('role', 'epoch', 'sealed', 'top')}
            threading.Thread(target=self._say_back, args=(self._link, {**facts, 'unfit': message.get('unfit')}), daemon=True).start()

    def _tell(self, body, message, fds=()):
        """What needs no answer: a link that cannot take it has ended, and its end is heard."""
        link = self._link
        if link is None:
            return
        try:
            link.send(body, message, fds)
        except FdBrokerError:
            link.close()
            self._wake()

    def _say_back(self, link, back):
        """What is held goes first: the holder decides when it hears Back."""
        with self._lock:
            held = [dict(entry, fd=os.dup(entry['fd'])) for name, entry in self._registry.items() if name in self._listeners]
            held += [
                {'role': SEGMENT, 'epoch': one.epoch, 'writable': one.writable, 'fd': os.dup(one.fd)}
                for _, one in sorted(self._shelf.items())
            ]
            held += [{'role': PIDFD, 'fd': os.dup(fd)} for fd in self._pidfds]
        try:
            with self._bundling:
                self._send_bundle(link, held)
                link.send('back', back)
            with self._changed:
                self._settled = link
                self._changed.notify_all()
        except (FdBrokerError, OSError) as error:
            self._warn(f'the holder did not take back what is held: {error}')
            link.close()
            self._wake()
        finally:
            _close_all([item['fd'] for item in held])

    def _send_bundle(self, link, items):
        """Returns when the holder has verified every descriptor. Not in the thread that hears it."""
        with self._changed:
            bundle = self._next_number
            self._next_number += 1
        batches = [items[at:at + FDS_PER_BATCH] for at in range(0, len(items), FDS_PER_BATCH)] or [[]]
        for index, batch in enumerate(batches):
            told = [{**{k: v for k, v in item.items() if k != 'fd'}, 'identity': identity_of(item['fd'])} for item in batch]
            message = {'bundle': bundle, 'index': index, 'last': index == len(batches) - 1, 'items': told}
            link.send('fds', message, [item['fd'] for item in batch])
            self._await(lambda: (bundle, index) in self._acks, link)
            self._acks.discard((bundle, index))

    def _register(self, item):
        """Gives the daemon a descriptor to keep; over the next link, where one is lost meanwhile."""
        until = time.monotonic() + self._ASK_S
        while True:
            left = lambda: self._over or self.phase in _OVER
            with self._changed:
                there = lambda: left() or (self._link is not None and self._link is self._settled)
                if not self._changed.wait_for(there, until - time.monotonic()):
                    raise FdBrokerError('ERR_FDB_DEADLINE', 'the daemon is not there just now', True)
                if left():
                    raise self._reason or FdBrokerError('ERR_FDB_CLOSED', 'this member has left')
                link = self._link
                request = self._next_number
                self._next_number += 1
            try:
                with self._bundling:
                    self._send_bundle(link, [item])
                    link.send('register', {'request': request})
                    self._await(lambda: request in self._registered, link)
            except FdBrokerError as error:
                if error.code != 'ERR_FDB_CHANNEL_CLOSED':
                    raise
                with self._changed:
                    # Its end is heard soon, and another follows.
                    self._changed.wait_for(lambda: self._link is not link or left(), until - time.monotonic())
                continue
            answer = self._registered.pop(request)
            if answer.get('code'):
                raise FdBrokerError(answer['code'], answer.get('message', ''))
            return

    def _await(self, answered, link):
        with self._changed:
            links = self._links
            gone = lambda: self._over or self._links != links or link.closed or self._link is not link
            if not self._changed.wait_for(lambda: answered() or gone(), self._ASK_S):
                raise FdBrokerError('ERR_FDB_DEADLINE', 'the daemon does not answer', True)
            if not answered():
                raise FdBrokerError('ERR_FDB_CHANNEL_CLOSED', 'the daemon left before it answered', True)

    def _quiesce(self, epoch):
        hooks = list(self._hooks['quiesce'])
        self._quiesced = True

        def run():
            self._run_hooks(hooks)
            self._post({'type': 'quiesced', 'epoch': epoch})

        if hooks:
            threading.Thread(target=run, daemon=True).start()
        else:
            self._step({'type': 'quiesced', 'epoch': epoch})

    def _resume(self):
        if self._quiesced:
            self._quiesced = False
            threading.Thread(target=self._run_hooks, args=(list(self._hooks['resumed']),), daemon=True).start()

    def _run_hooks(self, hooks):
        for hook in hooks:
            try:
                hook()
            except Exception as error:
                self._warn(f'a hook threw: {error!r}')

    def _judge(self):
        """Is the holder dead, or has it only closed its channel? Its end comes before the pidfd tells: a grace first."""
        links = self._links

        def answer():
            # It has come back meanwhile: over the new link it is alive.
            if self._over or links != self._links:
                return
            dead = self._holder_pidfd is not None and _poll(self._holder_pidfd, select.POLLIN, 0)
            self._step({'type': 'fate', 'fate': 'dead' if dead else 'alive', 'sealed': self._is_sealed(self._state['epoch'])})

        self._later(self._GRACE_S, answer)

    def _reconnect(self):
        """To the daemon, or to the one that is started in its place, until it answers."""
        if self._link is not None:
            self._link.release()
            self._link = None
        known = self._holder.get('incarnation', '')
        self._judge()

        def attempt():
            while not self._over and self.phase not in ('leaving', 'gone'):
                channel = None
                try:
                    channel = Channel(_connect(self.control, 0))
                    hello = {
                        'service': self.service, 'intent': BACK, 'generation': self.generation, 'incarnation': known,
                        'times': self._times or None,
                    }
                    welcome, pidfd, rest = _greet(channel, hello, self._ASK_S)
                except (FdBrokerError, OSError):
                    # No descriptor left, say: there will be one again.
                    if channel is not None:
                        channel.release()
                    time.sleep(self._RETRY_S)
                    continue
                with self._changed:
                    if self._over or self.phase in ('leaving', 'gone'):
                        channel.release()
                        _close_all([] if pidfd is None else [pidfd])
                        _close_messages(rest)
                        return
                    self._attach(channel, welcome, pidfd)
                    sealed = self._is_sealed(self._state['epoch'])
                    restarted = welcome.get('incarnation', '') != known
                    self._step({'type': 'reconnected', 'restarted': restarted, 'sealed': sealed})
                    self._hear_all(channel, rest)
                    self._wake()
                return

        threading.Thread(target=attempt, name='fd-broker-reconnect', daemon=True).start()

    def _end_link(self):
        """Another serves for good. What this process still changes goes over a connection of its own."""
        link, self._link = self._link, None
        if link is not None:
            link.release()
        self._beats = False

    def _end(self):
        self._over = True
        self._writing = None
        self._end_link()
        self._drop_bundles()
        for listener in self._listeners.values():
            listener._close()
        _close_all([entry['fd'] for entry in self._registry.values()])
        self._registry = {}
        if self._holder_pidfd is not None:
            os.close(self._holder_pidfd)
            self._holder_pidfd = None
        if self._state['phase'] != 'gone':
            self._state = {**self._state, 'phase': 'gone'}
        self._changed.notify_all()
        self._wake()

    # ---- the state

    def _adopt(self, wanted):
        for epoch, segment in sorted(self._shelf.items()):
            if epoch > self._log.newest and wanted(segment) and segment not in self._log.segments:
                self._log.adopt(segment)

    def _carry(self, below):
        """Everything that was acknowledged in the segments below this epoch."""
        self._adopt(lambda segment: segment.epoch < below and not (segment.sealed and segment.size <= segment.start))
        self._log.catch_up()
        self._check_schemas()

    def _check_schemas(self):
        for section in self._sections.values():
            refusal = section.refusal()
            if refusal:
                raise refusal

    def _write_in(self, epoch):
        segment = self._shelf.get(epoch)
        if segment is None:
            raise FdBrokerError('ERR_FDB_INTERNAL', f'no segment of epoch {epoch} to write in')
        if segment not in self._log.segments:
            self._log.adopt(segment)
            self._log.catch_up()
        # Half a record of a writer that was killed.
        segment.cut(segment.size - segment.end)
        self._writing = segment
        self._paused = False
        if self._drain is not None:
            self._drain.close()
            self._drain = None

    def _follow(self):
        """Reads what another writes, while this process does not."""
        if self._writing is not None or self.phase not in ('standby', 'leaving', 'orphan', 'unfit'):
            return
        try:
            self._adopt(lambda segment: not segment.snapshot)
            self._log.catch_up()
            self._check_schemas()
        except FdBrokerError as error:
            if self.phase == 'standby' and not self._state['unfit']:
                self._reason = error
                self._post({'type': 'failed', 'effect': 'follow'})
        if self.phase in ('standby', 'leaving') and self._drain is None and not self._over:
            self._drain = _Drain(self)

    def _entries(self, name):
        with self._lock:
            self._follow()
            return dict(self._log.section(name).entries) if self.phase == 'gone' else self._log.section(name).entries

    def _made(self, request):
        with self._lock:
            self._follow()
            return self._log.knows_request(request)

    def _write(self, changes, section, request, until, reads=()):
        """Whether the change is made; False: an entry of `reads` is another by now, and nothing was done."""
        if len(changes[0]['key'].encode()) > 65_535:
            raise FdBrokerError('ERR_FDB_STATE_LIMIT', 'a key has at most 65,535 bytes')
        # A change that may be sent twice has an id, so that it is made once.
        asked = _Forwarded(request or str(uuid.uuid4()), changes, reads)
        with self._changed:
            while True:
                if self._log.knows_request(asked.request):
                    return True
                if self._writing is not None and not self._paused:
                    if self._changed_since(reads):
                        return False
                    unsaid = section.unsaid()
                    if self._append({'request': asked.request, 'changes': changes, 'schemas': [unsaid] if unsaid else []}):
                        return True
                if self.phase == 'joining' and not self.first:
                    raise FdBrokerError('ERR_FDB_NOT_READY', 'the state can be changed when this process serves: after ready()')
                if self._over or self.phase == 'gone':
                    raise asked.unmade('ERR_FDB_CLOSED', 'this member has left: nothing can be written any more')
                left = until - time.monotonic()
                if left <= 0:
                    raise asked.unmade('ERR_FDB_FENCED', 'this process has no right to write now')
                self._follow()
                if self.phase not in ('standby', 'leaving') or self._drain is None:
                    self._changed.wait(left)
                    continue
                known = self._log.sequence
                answer = self._drain.forward(asked, section.unsaid(), until)
                # None: over this way it cannot be made any more. This process may serve again, and make it itself.
                if answer is not None:
                    self._see(asked.request, answer, known)
                    return answer['outcome'] == _APPLIED

    def _see(self, request, answer, known):
        """Waits until this process has read what the one that serves has done, or has found there."""
        made, sequence = answer['outcome'] == _APPLIED, answer.get('sequence', 0)
        # After a conflict without anything new to read, the next try would be the same.
        there = lambda: self._log.knows_request(request) if made else self._log.sequence >= sequence > known
        limit = self._VIEW_S if made or sequence > known else self._AGAIN_S
        view = time.monotonic() + limit
        while not self._over:
            self._follow()
            left = view - time.monotonic()
            if there() or left <= 0:
                return
            self._changed.wait(min(left, 0.02))

    def _changed_since(self, reads):
        return any(_mark_of(self._log.section(one['section']).entries.get(one['key'])) != one['mark'] for one in reads)

    def _append(self, record, raw=b''):
        """Appends one record in its place and applies it; `raw`: more of it, encoded. False: the right to write has ended."""
        segment = self._writing
        whole = encode('Record', {'epoch': segment.epoch, 'sequence': self._log.sequence + 1, **record}) + raw
        if len(whole) > _MOST_RECORD:
            raise FdBrokerError('ERR_FDB_STATE_LIMIT', f'a change of {len(whole)} bytes is more than {_MOST_RECORD}')
        if not segment.append(state_frame(whole)):
            self._writing = None
            return False
        self._log.apply(segment, decode('Record', whole))
        self._told_appended()
        return True

    def _told_appended(self):
        """Somebody reads along, in another process: several appends are told as one."""
        if not self._tells_appended or self._growing:
            return
        self._growing = True

        def tell():
            self._growing = False
            self._tell('appended', {})

        self._later(self._GROWN_S, tell)

    # ---- what other processes ask of the one that serves

    def _take_write(self, message):
        """A change that was made in a process that drains: it is made here, once."""
        answer = self._incoming.take(message, self._make_write)
        if answer is not None:
            self._tell('written', {'number': message.get('number', 0), **answer})

    def _make_write(self, parts, message):
        if self._log.knows_request(message['request']):
            return {'outcome': _APPLIED, 'sequence': self._log.sequence}
        if self._writing is None or self._paused:
            return {'outcome': _AGAIN}
        if message.get('durable'):
            raise FdBrokerError('ERR_FDB_STATE_FILE', 'the member that serves keeps no state file')
        existed = self._check_write(parts)
        reads = [{'section': '', 'key': '', 'mark': b'', **read} for read in message['reads']]
        if not parts and not reads:
            raise FdBrokerError('ERR_FDB_MESSAGE', 'there is no change in it')
        if self._changed_since(reads):
            return {'outcome': _CONFLICT, 'sequence': self._log.sequence}
        if parts and not self._append({'request': message['request']}, b''.join(parts)):
            return {'outcome': _AGAIN}
        return {'outcome': _APPLIED, 'existed': existed, 'sequence': self._log.sequence}

    def _check_write(self, parts):
        """Only changes and schemas, which this process and all that read its log may read. True: one deletion, of what was there."""
        given, changes = {}, []
        for part in parts:
            record = decode('Record', part)
            if any(record.get(field) for field in ('epoch', 'sequence', 'request', 'requests', 'end', 'part')):
                raise FdBrokerError('ERR_FDB_MESSAGE', 'a forwarded change has a place of its own')
            for schema in record['schemas']:
                name = schema.get('name', '')
                section = self._sections.get(name)
                if section is not None and schema.get('min_reader', 0) > section.schema['version']:
                    raise FdBrokerError('ERR_FDB_SCHEMA', f'section {name} would need a newer reader than the process that serves')
                codecs = [section.schema['codec']] if section is not None else []
                stored = self._log.section(name).stored
                codecs += [stored['codec']] if stored and stored.get('codec') else []
                if any(codec != schema.get('codec', '') for codec in codecs):
                    raise FdBrokerError('ERR_FDB_SCHEMA', f'section {name} has another codec')
                given[name] = max(given.get(name, 0), schema.get('version', 0))
            for change in record['changes']:
                self._check_change(change, given)
                changes.append(change)
                if len(changes) > _MOST_CHANGES:
                    raise FdBrokerError('ERR_FDB_STATE_LIMIT', f'a change of more than {_MOST_CHANGES} entries')
        if len(changes) != 1 or changes[0].get('op', PUT) != DELETE:
            return False
        return changes[0].get('key', '') in self._log.section(changes[0].get('section', '')).entries

    def _check_change(self, change, given):
        name, op = change.get('section', ''), change.get('op', PUT)
        if op > CLEAR:
            raise FdBrokerError('ERR_FDB_MESSAGE', f'a change of kind {op}')
        stored = self._log.section(name).stored
        known = max(stored.get('version', 0) if stored else 0, given.get(name, 0))
        if op == PUT and ((stored is None and name not in given) or change.get('version', 0) > known):
            raise FdBrokerError('ERR_FDB_SCHEMA', f'who may read a change of section {name} is not known')

    def _status(self):
        position = self._log.position
        return {
            'language': f'Python {sys.version.split()[0]}',
            'state': {'sequence': position['sequence'], 'digest': position['digest']},
            'listeners': [{'name': name, 'accepting': one.accepting} for name, one in self._listeners.items()],
        }

    def _answer_upgrade(self, message):
        why = 'a member in Python does not start its successor: start the next version yourself, it joins by itself'
        self._tell('result', {'code': 'ERR_FDB_COMMAND_UNKNOWN', 'message': why, 'request': message.get('request', 0)})

    def _answer_command(self, message):
        request, name = message.get('request', 0), message.get('name', '')
        if name == 'service.stop':
            body = json.dumps({'pid': os.getpid(), 'generation': self.generation}).encode()
            self._tell('command_reply', {'request': request, 'ok': True, 'body': body})
            # The service ends: the version that stands by does not come back.
            self._tell('end_probation', {'closing': True})
            self._step({'type': 'leave'})
            return
        why = f'this service has no command {name}'
        self._tell('command_reply', {'request': request, 'code': 'ERR_FDB_COMMAND_UNKNOWN', 'message': why})

    def _warn(self, text):
        if self._told is not None:
            self._told(text)


class _Incoming:
    """The changes that come over one link, in pieces, from several processes."""

    MOST_ARRIVING = 64
    MOST_REMEMBERED = 1024

    def __init__(self):
        self._arriving = {}
        """Pieces by source and number."""
        self._answered = OrderedDict()
        """Changes that were answered before their last piece: the rest is ignored."""
        self._sent_away = OrderedDict()
        """Sources that were answered AGAIN. A later change must not be made before an earlier one: until they connect again, as others."""

    def take(self, message, make):
        """The answer, or None: none yet. `make` makes a change that is whole."""
        source, request, more = message.get('source', 0), message.get('request', ''), message.get('more', False)
        key = (source, message.get('number', 0))
        if not request:
            self._arriving.pop(key, None)
            self._answered.pop(key, None)
            return None
        if key in self._answered:
            if not more:
                del self._answered[key]
            return None
        known = self._arriving.pop(key, None)
        parts = [*(known or []), *message['parts']]
        answer = None
        if source in self._sent_away or (more and known is None and len(self._arriving) >= self.MOST_ARRIVING):
            answer = {'outcome': _AGAIN}
        elif sum(map(len, parts)) > _MOST_RECORD:
            answer = {'outcome': _REFUSED, 'code': 'ERR_FDB_STATE_LIMIT', 'message': f'a change of more than {_MOST_RECORD} bytes'}
        elif more:
            self._arriving[key] = parts
            return None
        else:
            try:
                answer = make(parts, message)
            except FdBrokerError as error:
                answer = {'outcome': _REFUSED, 'code': error.code, 'message': error.message, 'retryable': error.retryable}
        if more:
            self._remember(self._answered, key)
        if answer['outcome'] == _AGAIN:
            self._remember(self._sent_away, source)
        return answer

    def _remember(self, memory, what):
        memory[what] = None
        if len(memory) > self.MOST_REMEMBERED:
            memory.popitem(last=False)


class _Health:
    """What the application says of its health, asked in a thread of its own: one that does not answer must not hold up anything else."""

    LIMIT_S = 3.0

    def __init__(self, ask):
        self._ask = ask
        self._asked_at = None
        self._said = {'healthy': True} if ask is None else {'healthy': False, 'unwell': 'its health check has not answered yet'}

    def ask(self):
        if self._ask is None or self._asked_at is not None:
            return
        self._asked_at = time.monotonic()
        threading.Thread(target=self._run, name='fd-broker-health', daemon=True).start()

    def _run(self):
        try:
            well, why = bool(self._ask()), ''
        except Exception as error:
            well, why = False, f'its health check threw: {error}'[:500]
        self._said, self._asked_at = {'healthy': well, 'unwell': why}, None

    def said(self):
        asked_at = self._asked_at
        if asked_at is not None and time.monotonic() - asked_at > self.LIMIT_S:
            return {'healthy': False, 'unwell': 'its health check does not answer'}
        return self._said


class _Forwarded:
    """A change that waits until it is made, here or elsewhere: always under the same request id."""

    def __init__(self, request, changes, reads):
        self.request = request
        self.sent = False
        """It may have been made, by a process that has not answered."""
        self._changes = encode('Record', {'changes': changes})
        self._reads = list(reads)

    def message(self, unsaid):
        """As a Write, without its number. `unsaid`: the schema that the log lacks."""
        schemas = [encode('Record', {'schemas': [unsaid]})] if unsaid else []
        return {'request': self.request, 'parts': [*schemas, self._changes], 'reads': self._reads}

    def unmade(self, code, message):
        """What the caller hears when the time is over."""
        if self.sent:
            why = 'nobody said whether the change was made: try again with the same request id'
            return FdBrokerError('ERR_FDB_DEADLINE', why, True)
        return FdBrokerError(code, message, code == 'ERR_FDB_FENCED')


class _Drain:
    """The connection of a process that does not serve any more: says that it is there, gets newer state, and sends its changes."""

    _BEAT_S = 0.25

    def __init__(self, member):
        self._member = member
        self._link = None
        self._channel = None
        """The link, when changes can be sent over it."""
        self._numbers = 0
        self._answers = {}
        self._closed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name='fd-broker-drain', daemon=True)
        self._thread.start()

    def forward(self, asked, unsaid, until):
        """The answer of the process that serves: the change is made, or an entry of its reads is another by now. None: no answer comes over
        this connection, or not in time. Raises what it was refused with. With the member's lock, which it gives up while it waits."""
        changed = self._member._changed
        while not self._closed:
            left = until - time.monotonic()
            if left <= 0:
                return None
            channel = self._channel
            if channel is None:
                changed.wait(left)
                continue
            self._numbers += 1
            number = self._numbers
            self._answers[number] = None
            asked.sent = True
            # A daemon that does not read must not keep others from the state.
            changed.release()
            try:
                failure = channel.try_send('write', {'number': number, **asked.message(unsaid)})
            finally:
                changed.acquire()
            if failure is not None:
                del self._answers[number]
                if failure.code == 'ERR_FDB_FRAME_TOO_LARGE':
                    raise failure
                self._drop(channel)
                continue
            changed.wait_for(lambda: self._answers[number] or self._channel is not channel or self._closed, left)
            answer = self._answers.pop(number)
            outcome = answer.get('outcome', 0) if answer else None
            if outcome in (_APPLIED, _CONFLICT):
                return answer
            if outcome == _REFUSED:
                raise FdBrokerError(answer.get('code') or 'ERR_FDB_FENCED', answer.get('message', ''), answer.get('retryable', False))
            if answer is not None:
                # The next connection follows after a pause.
                self._drop(channel)
        return None

    def close(self):
        """What waits for an answer goes on where this process can make it. Does not wait: the thread says once more how this process is."""
        with self._member._changed:
            self._closed = True
            self._closing.set()
            self._channel = None
            self._member._changed.notify_all()
            if self._link is not None:
                self._link.end_reading()

    def join(self, seconds):
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def _drop(self, channel):
        if self._channel is channel:
            self._channel = None
            self._member._changed.notify_all()
        channel.close()

    def _run(self):
        member = self._member
        while not self._closed:
            channel = pidfd = None
            try:
                channel = Channel(_connect(member.control, 1.0))
                with member._lock:
                    top = max(member._shelf, default=0)
                hello = {'service': member.service, 'intent': _DRAINING, 'generation': member.generation, 'top': top}
                welcome, pidfd, rest = _greet(channel, hello, 1.0)
                _close_all([] if pidfd is None else [pidfd])
                with member._changed:
                    self._link = channel
                    if 'writes' in welcome['capabilities'] and not self._closed:
                        self._channel = channel
                    member._changed.notify_all()
                self._listen(channel, rest)
                if self._closed:
                    channel.beat({'healthy': True}, member._report())
            except (FdBrokerError, OSError):
                pass
            with member._changed:
                self._link = None
                if self._channel is channel:
                    self._channel = None
                member._changed.notify_all()
            if channel is not None:
                channel.release()
            self._closing.wait(self._BEAT_S)

    def _listen(self, channel, messages):
        bundles = {}
        try:
            self._hear(channel, messages, bundles)
        finally:
            # What has come of bundles whose rest will not.
            for items in bundles.values():
                _close_all([fd for _, fd in items])

    def _hear(self, channel, messages, bundles):
        member, beat_at = self._member, 0.0
        while messages is not None and not self._closed and not channel.closed:
            while messages:
                body, message, fds = messages.pop(0)
                try:
                    if body == 'fds':
                        self._take_batch(channel, message, fds, bundles)
                        continue
                    _close_all(fds)
                    if body == 'written':
                        with member._changed:
                            # Nobody may wait for it any more.
                            if message.get('number', 0) in self._answers:
                                self._answers[message['number']] = message
                                member._changed.notify_all()
                except BaseException:
                    _close_messages(messages)
                    raise
            now = time.monotonic()
            if now >= beat_at:
                beat_at = now + self._BEAT_S
                channel.beat({'healthy': True}, member._report())
            messages = channel.receive() if _poll(channel.fileno(), select.POLLIN, self._BEAT_S) else []

    def _take_batch(self, channel, message, fds, bundles):
        try:
            _verify(message['items'], fds)
        except BaseException:
            _close_all(fds)
            raise
        number = message.get('bundle', 0)
        items = bundles.setdefault(number, [])
        items += zip(message['items'], fds)
        channel.send('fds_ack', {'bundle': number, 'index': message.get('index', 0), 'verified': len(fds)})
        if message.get('last'):
            self._take(bundles.pop(number))

    def _take(self, items):
        """Segments that are new go to the shelf, all else is closed."""
        member = self._member
        with member._changed:
            while items:
                item, fd = items.pop(0)
                try:
                    wanted = item.get('role') == SEGMENT and item.get('epoch', 0) not in member._shelf and not member._over
                    segment = Segment(fd, False) if wanted else None
                except BaseException:
                    _close_all([fd, *(other for _, other in items)])
                    raise
                if segment is None or segment.epoch in member._shelf:
                    os.close(fd)
                else:
                    member._shelf[segment.epoch] = segment
            member._follow()
