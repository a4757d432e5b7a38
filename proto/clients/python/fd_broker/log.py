"""The state: what the segments of its log add up to."""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterable

from .errors import FdBrokerError
from .messages import CLEAR, PUT, Message
from .segment import Segment, damaged

# Value and version.
Entry = tuple[bytes, int]

_MOST_REQUESTS = 65_536

class Digest:
    """The digest of a set of entries, whatever their order: the SHA-256 of each, added in eight lanes of 32 bits."""

    def __init__(self) -> None:
        self._lanes = [0] * 8

    def add(self, section: bytes, key: bytes, value: bytes, sign: int = 1) -> None:
        data = struct.pack('<III', len(section), len(key), len(value)) + section + key + value
        for i, lane in enumerate(struct.unpack('<8I', hashlib.sha256(data).digest())):
            self._lanes[i] = (self._lanes[i] + sign * lane) & 0xFFFFFFFF

    def remove(self, section: bytes, key: bytes, value: bytes) -> None:
        self.add(section, key, value, -1)

    def __str__(self) -> str:
        return ''.join(f'{lane:08x}' for lane in self._lanes)


class SectionState:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        """Key to (value, version)."""
        self.stored: Message | None = None
        """The schema as the log has it."""


class StateLog:
    """The state of a service: the segments of its log in order, and the sections that they add up to. Not safe for threads."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.sections: dict[str, SectionState] = {}
        self.sequence = 0
        self._epoch = 0
        self._digest = Digest()
        self._count = 0
        self._requests: OrderedDict[str, int] = OrderedDict()
        self._parts: Message | None = None
        """Changes of a bulk whose last record has not come."""

    @property
    def position(self) -> Message:
        """Where the log stands: what both sides of a handoff compare."""
        return {'epoch': self._epoch, 'sequence': self.sequence, 'digest': str(self._digest)}

    @property
    def entries(self) -> int:
        return self._count

    @property
    def newest(self) -> int:
        return self.segments[-1].epoch if self.segments else -1

    def knows_request(self, request: str) -> bool:
        return request in self._requests

    def adopt(self, segment: Segment) -> None:
        """The next segment of the log, which owns it: the snapshot first, then rising epochs."""
        if self.segments and (segment.snapshot or segment.epoch <= self.newest):
            raise FdBrokerError('ERR_FDB_STATE_ORDER', f'the segment of epoch {segment.epoch} cannot come next')
        self.segments.append(segment)

    def catch_up(self) -> None:
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

    def _read(self, segment: Segment) -> None:
        first = segment.snapshot and segment.end == segment.start
        whole = not segment.snapshot or segment.final
        for record in segment.records():
            sequence = record.get('sequence', 0)
            if segment.snapshot:
                if whole:
                    raise damaged(segment, segment.end, 'records behind the end of a snapshot')
                if not first and sequence != self.sequence:
                    raise damaged(segment, segment.end, f'sequence {sequence} in the same snapshot')
                first = False
            elif sequence != self.sequence + 1:
                raise damaged(segment, segment.end, f'sequence {sequence} after {self.sequence}')
            self.apply(segment, record)
            if 'end' in record:
                end = record['end']
                if end.get('entries', 0) != self._count or end.get('digest') != str(self._digest):
                    raise damaged(segment, segment.end, 'its end says something else')
                whole = True
        if not whole:
            raise damaged(segment, segment.end, 'the end of the snapshot is missing')

    def apply(self, segment: Segment, record: Message) -> None:
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
                raise damaged(segment, segment.end, 'a part of a bulk without the part before it')
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

    def section(self, name: str) -> SectionState:
        if name not in self.sections:
            self.sections[name] = SectionState()
        return self.sections[name]

    def _learn(self, schemas: Iterable[Message]) -> None:
        for told in schemas:
            section = self.section(told.get('name', ''))
            section.stored = merged_schema(section.stored, told)

    def _change(self, changes: Iterable[Message]) -> None:
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

    def _remove(self, name: str, section: SectionState, key: str) -> None:
        before = section.entries.pop(key, None)
        if before is not None:
            self._digest.remove(name.encode(), key.encode(), before[0])
            self._count -= 1

    def close(self) -> None:
        for segment in self.segments:
            segment.close()
        self.segments = []


def merged_schema(known: Message | None, told: Message) -> Message:
    """The schema of a section that the log has twice: the lowest reader never falls, a secret stays one."""
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
