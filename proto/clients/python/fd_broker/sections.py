"""Maps that outlive their process."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from .errors import FdBrokerError
from .log import Entry, merged_schema
from .messages import DELETE, PUT, Message

if TYPE_CHECKING:
    from .state import StatePart

T = TypeVar('T')
D = TypeVar('D')

CODECS: dict[str, tuple[Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    'json': (
        lambda value: json.dumps(value, ensure_ascii=False, separators=(',', ':'), allow_nan=False).encode(),
        lambda data: json.loads(data.decode()),
    ),
    'bytes': (bytes, bytes),
}

def mark_of(entry: Entry | None) -> bytes:
    """Stands for what an entry is; empty: there is none."""
    return b'' if entry is None else hashlib.sha256(f'{entry[1]} '.encode() + entry[0]).digest()[:16]


class Section(Generic[T]):
    """A map from text to values, kept across processes and shared with members in other languages. From any thread."""

    def __init__(self, member: StatePart, name: str, schema: Message) -> None:
        self._member = member
        self.name = name
        self.schema = schema
        self._encode, self._decode = CODECS[schema['codec']]

    @overload
    def get(self, key: str) -> T | None: ...

    @overload
    def get(self, key: str, default: D) -> T | D: ...

    def get(self, key: str, default: Any = None) -> Any:
        entry = self._member._entries(self.name).get(key)
        return default if entry is None else self._decode(entry[0])

    def __getitem__(self, key: str) -> T:
        value: T = self._decode(self._member._entries(self.name)[key][0])
        return value

    def __contains__(self, key: str) -> bool:
        return key in self._member._entries(self.name)

    def __len__(self) -> int:
        return len(self._member._entries(self.name))

    def keys(self) -> list[str]:
        return list(self._member._entries(self.name))

    def items(self) -> list[tuple[str, T]]:
        return [(key, self._decode(value)) for key, (value, _) in list(self._member._entries(self.name).items())]

    def put(self, key: str, value: T, request: str = '', timeout: float = 30.0) -> None:
        """Returns when it is in the log: acknowledged. `request`: an id of the caller's; a change that is tried again with it is made
        once. In a process that another has replaced, the change is made by that one."""
        self._member._write([self._put(key, value)], self, request, time.monotonic() + timeout)

    def update(self, key: str, change: Callable[[T], T], default: Any = None, request: str = '', timeout: float = 30.0) -> T:
        """Puts what `change` makes of the value that is there, and returns it. An increment, say: a get() and a put() beside it lose those that
        come between them, from another thread, or from the process that serves next. `change` is called again where the entry has become
        another one meanwhile, so it does nothing else. With a `request` that was made before, returns what is there."""
        member, until = self._member, time.monotonic() + timeout
        if request and member._made(request):
            made: T = self.get(key, default)
            return made
        request = request or str(uuid.uuid4())
        while True:
            entry = member._entries(self.name).get(key)
            value = change(default if entry is None else self._decode(entry[0]))
            read = {'section': self.name, 'key': key, 'mark': mark_of(entry)}
            if member._write([self._put(key, value)], self, request, until, [read]):
                return value
            if time.monotonic() >= until:
                raise FdBrokerError('ERR_FDB_DEADLINE', f'{key} of section {self.name} was another at each of the updates', True)

    def _put(self, key: str, value: T) -> Message:
        return {'section': self.name, 'op': PUT, 'key': key, 'value': self._encode(value), 'version': self.schema['version']}

    def delete(self, key: str, request: str = '', timeout: float = 30.0) -> None:
        self._member._write([{'section': self.name, 'op': DELETE, 'key': key}], self, request, time.monotonic() + timeout)

    def refusal(self) -> FdBrokerError | None:
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

    def unsaid(self) -> Message | None:
        """The schema that the log needs before this process writes; None if it has it."""
        stored = self._member._log.section(self.name).stored
        if stored is None:
            return self.schema
        wanted = merged_schema(stored, self.schema)
        facts = ('version', 'min_reader', 'codec', 'secret')
        return None if all((wanted.get(f) or 0) == (stored.get(f) or 0) for f in facts) else wanted
