"""The state of a member: reads it and writes it, or has the serving process write it."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .drain import Drain
from .errors import FdBrokerError
from .log import Entry, StateLog
from .machine import Event, State, initial_member
from .messages import AGAIN, APPLIED, CLEAR, CONFLICT, DELETE, PUT, Message, decode, encode
from .sections import Section, mark_of
from .segment import MOST_RECORD, Segment, state_frame
from .writes import MOST_CHANGES, Forwarded, Incoming


class StatePart:
    """The sections of a :class:`Member`, the log, and changes that are made here or elsewhere."""

    _VIEW_S = 2.0
    _AGAIN_S = 0.1
    _GROWN_S = 0.01

    def __init__(self, control: str, service: str, log: Callable[[str], object] | None) -> None:
        self.control = control
        self.service = service
        self.generation = 0
        self._told = log
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._state: State = initial_member()
        self._over = False
        self._reason: FdBrokerError | None = None
        self._log = StateLog()
        self._sections: dict[str, Section[Any]] = {}
        self._segments: dict[int, Segment] = {}
        self._writing: Segment | None = None
        self._paused = False
        self._incoming = Incoming()
        self._tells_appended = self._growing = False
        self._drain: Drain | None = None

    @property
    def phase(self) -> str:
        """`joining`, `ready`, `serving`, `standby`, `leaving`, `gone` …: see docs/protocol.md."""
        phase: str = self._state['phase']
        return phase

    @property
    def first(self) -> bool:
        """Whether this is the first process of the service, without a state."""
        return bool(self._state['source'] == 0)

    def _tell(self, body: str, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        raise NotImplementedError

    def _hint(self, body: str) -> None:
        raise NotImplementedError

    def _post(self, event: Event) -> None:
        raise NotImplementedError

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        raise NotImplementedError

    def _report(self) -> Message:
        return {'pid': os.getpid(), 'generation': self.generation, 'phase': self.phase}

    def _warn(self, text: str) -> None:
        if self._told is not None:
            self._told(text)

    def _adopt(self, wanted: Callable[[Segment], bool]) -> None:
        for epoch, segment in sorted(self._segments.items()):
            if epoch > self._log.newest and wanted(segment) and segment not in self._log.segments:
                self._log.adopt(segment)

    def _start_from(self, snapshot: Segment) -> bool:
        """Reads the state again from a snapshot, into which segments were merged that this process lacks. Returns False if it has them."""
        if self._writing is not None or snapshot.epoch <= self._log.newest:
            return False
        log = StateLog()
        log.adopt(snapshot)
        log.catch_up()
        for epoch in [epoch for epoch in self._segments if epoch <= snapshot.epoch]:
            self._segments.pop(epoch).close()
        self._segments[snapshot.epoch] = snapshot
        self._log = log
        return True

    def _carry(self, below: int) -> None:
        """Everything that was acknowledged in the segments below this epoch."""
        self._adopt(lambda segment: segment.epoch < below and not (segment.sealed and segment.size <= segment.start))
        self._log.catch_up()
        self._check_schemas()

    def _check_schemas(self) -> None:
        for section in self._sections.values():
            refusal = section.refusal()
            if refusal:
                raise refusal

    def _write_in(self, epoch: int) -> None:
        segment = self._segments.get(epoch)
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

    def _follow(self) -> None:
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
            self._drain = Drain(self)

    def _entries(self, name: str) -> dict[str, Entry]:
        with self._lock:
            self._follow()
            return dict(self._log.section(name).entries) if self.phase == 'gone' else self._log.section(name).entries

    def _made(self, request: str) -> bool:
        with self._lock:
            self._follow()
            return self._log.knows_request(request)

    def _write(self, changes: list[Message], section: Section[Any], request: str, until: float, reads: Sequence[Message] = ()) -> bool:
        """Whether the change is made; returns False if an entry of `reads` has changed by now, and nothing was done."""
        if len(changes[0]['key'].encode()) > 65_535:
            raise FdBrokerError('ERR_FDB_STATE_LIMIT', 'a key has at most 65,535 bytes')
        # A change that may be sent twice has an id, so that it is made once.
        asked = Forwarded(request or str(uuid.uuid4()), changes, reads)
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
                    return bool(answer['outcome'] == APPLIED)

    def _see(self, request: str, answer: Message, known: int) -> None:
        """Waits until this process has read what the one that serves has done, or has found there."""
        made, sequence = answer['outcome'] == APPLIED, answer.get('sequence', 0)
        # After a conflict without anything new to read, the next try would be the same.

        def there() -> bool:
            return self._log.knows_request(request) if made else self._log.sequence >= sequence > known

        limit = self._VIEW_S if made or sequence > known else self._AGAIN_S
        view = time.monotonic() + limit
        while not self._over:
            self._follow()
            left = view - time.monotonic()
            if there() or left <= 0:
                return
            self._changed.wait(min(left, 0.02))

    def _changed_since(self, reads: Iterable[Message]) -> bool:
        return any(mark_of(self._log.section(one['section']).entries.get(one['key'])) != one['mark'] for one in reads)

    def _append(self, record: Message, raw: bytes = b'') -> bool:
        """Appends one record in its place and applies it; `raw`: more of it, encoded. Returns False if the right to write has ended."""
        segment = self._writing
        if segment is None:
            return False
        whole = encode('Record', {'epoch': segment.epoch, 'sequence': self._log.sequence + 1, **record}) + raw
        if len(whole) > MOST_RECORD:
            raise FdBrokerError('ERR_FDB_STATE_LIMIT', f'a change of {len(whole)} bytes is more than {MOST_RECORD}')
        if not segment.append(state_frame(whole)):
            self._writing = None
            return False
        self._log.apply(segment, decode('Record', whole))
        self._told_appended()
        return True

    def _told_appended(self) -> None:
        """Tells another process that reads along: several appends are told as one. That process also looks by itself."""
        if not self._tells_appended or self._growing:
            return
        self._growing = True

        def tell() -> None:
            self._growing = False
            self._hint('appended')

        self._later(self._GROWN_S, tell)

    def _take_write(self, message: Message) -> None:
        """A change that was made in a process that drains: it is made here, once."""
        answer = self._incoming.take(message, self._make_write)
        if answer is not None:
            self._tell('written', {'number': message.get('number', 0), **answer})

    def _make_write(self, parts: list[bytes], message: Message) -> Message:
        if self._log.knows_request(message['request']):
            return {'outcome': APPLIED, 'sequence': self._log.sequence}
        if self._writing is None or self._paused:
            return {'outcome': AGAIN}
        if message.get('durable'):
            raise FdBrokerError('ERR_FDB_STATE_FILE', 'the member that serves keeps no state file')
        existed, schemas = self._check_write(parts)
        reads = [{'section': '', 'key': '', 'mark': b'', **read} for read in message['reads']]
        if not parts and not reads:
            raise FdBrokerError('ERR_FDB_MESSAGE', 'there is no change in it')
        if self._changed_since(reads):
            return {'outcome': CONFLICT, 'sequence': self._log.sequence}
        if parts and not self._append({'request': message['request'], 'schemas': schemas}, b''.join(parts)):
            return {'outcome': AGAIN}
        return {'outcome': APPLIED, 'existed': existed, 'sequence': self._log.sequence}

    def _check_write(self, parts: list[bytes]) -> tuple[bool, list[Message]]:
        """
        Allows only changes and schemas, which this process and all that read its log may read. Returns True for one deletion of an existing entry, and
        this process's own schemas that the log needs.
        """
        given: dict[str, int] = {}
        unwritten: list[Message] = []
        changes: list[Message] = []
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
                if self._check_change(change, given):
                    section = self._sections[change['section']]
                    given[section.name] = section.schema['version']
                    unsaid = section.unsaid()
                    unwritten += [unsaid] if unsaid else []
                changes.append(change)
                if len(changes) > MOST_CHANGES:
                    raise FdBrokerError('ERR_FDB_STATE_LIMIT', f'a change of more than {MOST_CHANGES} entries')
        if len(changes) != 1 or changes[0].get('op', PUT) != DELETE:
            return False, unwritten
        return changes[0].get('key', '') in self._log.section(changes[0].get('section', '')).entries, unwritten

    def _check_change(self, change: Message, given: Mapping[str, int]) -> bool:
        """Whether the log needs this process's own schema: a service that has begun again has none in its log yet."""
        name, op = change.get('section', ''), change.get('op', PUT)
        if op > CLEAR:
            raise FdBrokerError('ERR_FDB_MESSAGE', f'a change of kind {op}')
        stored = self._log.section(name).stored
        known = max(stored.get('version', 0) if stored else 0, given.get(name, 0))
        version = change.get('version', 0)
        if op != PUT or ((stored is not None or name in given) and version <= known):
            return False
        section = self._sections.get(name)
        if section is None or version > section.schema['version']:
            raise FdBrokerError('ERR_FDB_SCHEMA', f'a change of section {name} has a newer schema than the process that serves knows')
        return True
