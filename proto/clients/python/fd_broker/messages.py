"""The messages of proto/wire.proto and proto/state.proto that a member reads or writes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Union

from .errors import FdBrokerError

Message = dict[str, Any]
Buffer = Union[bytes, bytearray, memoryview]

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
# Kinds: u number, b bool, d double, s text, y bytes, else a message; `*` behind it: repeated, `=` before it: told also when it is 0.
MESSAGES = {
    'Envelope': {
        1: ('hello', 'Hello'), 2: ('welcome', 'Welcome'), 3: ('reject', 'Reject'), 4: ('offer', 'Offer'),
        5: ('fds', 'Fds'), 6: ('fds_ack', 'FdsAck'), 7: ('ready', 'Ready'), 8: ('freeze', 'Empty'),
        9: ('frozen', 'At'), 10: ('sealed', 'At'), 11: ('prepared', 'At'), 12: ('commit', 'Granted'),
        13: ('serving', 'Granted'), 14: ('retire', 'GivenUp'), 15: ('resume', 'Empty'), 16: ('reinstate', 'Granted'),
        17: ('released', 'GivenUp'), 18: ('fenced', 'Empty'), 19: ('abort', 'Abort'), 20: ('gone', 'Empty'),
        21: ('back', 'Back'), 22: ('heartbeat', 'Heartbeat'), 23: ('end_probation', 'EndProbation'),
        24: ('register', 'Register'), 25: ('registered', 'Registered'), 30: ('status_request', 'Empty'),
        31: ('status', 'Status'), 32: ('upgrade_request', 'UpgradeRequest'), 33: ('progress', 'Progress'),
        34: ('result', 'Result'), 35: ('command', 'Command'), 36: ('command_reply', 'CommandReply'),
        43: ('write', 'Write'), 44: ('written', 'Written'), 47: ('unfit', 'Unfit'), 50: ('quiesce', 'Granted'),
        51: ('quiesced', 'Granted'), 52: ('unquiesce', 'Empty'), 56: ('cancel_upgrade', 'CancelUpgrade'), 70: ('tell_appended', 'TellAppended'),
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
    'GivenUp': {1: ('given_up', 's*')},
    'Abort': {1: ('code', 's'), 2: ('message', 's'), 3: ('phase', 's')},
    'Unfit': {1: ('epoch', 'u'), 2: ('code', 's'), 3: ('message', 's')},
    'Back': {1: ('role', 's'), 2: ('epoch', 'u'), 3: ('sealed', 'b'), 4: ('top', 'u'), 5: ('unfit', 'b')},
    'Heartbeat': {1: ('healthy', 'b'), 2: ('report', 's'), 3: ('unwell', 's'), 4: ('rolls_back', 'b')},
    'CancelUpgrade': {1: ('code', 's'), 2: ('message', 's')},
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
APPLIED, CONFLICT, AGAIN, REFUSED = range(1, 5)
_MOST_DEPTH = 16

def malformed(why: str) -> FdBrokerError:
    return FdBrokerError('ERR_FDB_MESSAGE', f'the peer sent what is no message of this protocol: {why}')


def _put_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append((value & 127) | 128)
        value >>= 7
    out.append(value)


def _varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise malformed('a number without an end')
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def encode(name: str, message: Mapping[str, Any]) -> bytes:
    """The bytes of a message, a dict by the names of its fields. A field that is None is left out, and one that is 0 if absence means 0."""
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


def _put_field(out: bytearray, number: int, kind: str, value: Any) -> None:
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


def decode(name: str, data: Buffer, depth: int = 0) -> Message:
    """The message in these bytes: a dict with every field that they have. Unknown fields are skipped."""
    if depth > _MOST_DEPTH:
        raise malformed('messages too deep in each other')
    fields = MESSAGES[name]
    message: Message = {field: [] for field, kind in fields.values() if kind.endswith('*')}
    data = memoryview(data)
    at, end = 0, len(data)
    value: Any
    while at < end:
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise malformed('a field of number 0')
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
            raise malformed(f'a field of kind {wire}')
        if at > end:
            raise malformed('a field that is cut')
        if number in fields:
            if name == 'Envelope':
                # An Envelope has one body: of several the last counts.
                message = {}
            _take_field(message, fields[number], wire, value, depth)
    return message


def _take_field(message: Message, known: tuple[str, str], wire: int, value: Any, depth: int) -> None:
    field, kind = known
    repeated, kind = kind.endswith('*'), kind.strip('*=')
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
            raise malformed('a text that is no UTF-8') from None
    elif kind == 'y':
        value = bytes(value)
    elif kind != 'u':
        value = decode(kind, value, depth + 1)
    if repeated:
        message[field].append(value)
    else:
        message[field] = value


def body_of(envelope: Message) -> tuple[str, Message] | None:
    """The content of an Envelope: its name and the message; None if both are unknown here."""
    return next(iter(envelope.items()), None)
