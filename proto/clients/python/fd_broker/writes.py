"""Changes that one process makes for another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from .errors import FdBrokerError
from .messages import AGAIN, REFUSED, Message, encode
from .segment import MOST_RECORD

MOST_CHANGES = 500_000

class Incoming:
    """The changes that come over one link, in pieces, from several processes."""

    MOST_ARRIVING = 64
    MOST_REMEMBERED = 1024

    def __init__(self) -> None:
        self._arriving: dict[tuple[int, int], list[bytes]] = {}
        """Pieces by source and number."""
        self._answered: OrderedDict[tuple[int, int], None] = OrderedDict()
        """Changes that were answered before their last piece: the rest is ignored."""
        self._sent_away: OrderedDict[int, None] = OrderedDict()
        """Sources that were answered AGAIN. A later change must not be made before an earlier one: until they connect again, as others."""

    def take(self, message: Message, make: Callable[[list[bytes], Message], Message]) -> Message | None:
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
        answer: Message
        if source in self._sent_away or (more and known is None and len(self._arriving) >= self.MOST_ARRIVING):
            answer = {'outcome': AGAIN}
        elif sum(map(len, parts)) > MOST_RECORD:
            answer = {'outcome': REFUSED, 'code': 'ERR_FDB_STATE_LIMIT', 'message': f'a change of more than {MOST_RECORD} bytes'}
        elif more:
            self._arriving[key] = parts
            return None
        else:
            try:
                answer = make(parts, message)
            except FdBrokerError as error:
                answer = {'outcome': REFUSED, 'code': error.code, 'message': error.message, 'retryable': error.retryable}
        if more:
            self._remember(self._answered, key)
        if answer['outcome'] == AGAIN:
            self._remember(self._sent_away, source)
        return answer

    def _remember(self, memory: OrderedDict[Any, None], what: Any) -> None:
        memory[what] = None
        if len(memory) > self.MOST_REMEMBERED:
            memory.popitem(last=False)


class Forwarded:
    """A change that waits until it is made, here or elsewhere: always under the same request id."""

    def __init__(self, request: str, changes: list[Message], reads: Sequence[Message]) -> None:
        self.request = request
        self.sent = False
        """Marks the change as perhaps made, by a process that has not answered."""
        self._changes = encode('Record', {'changes': changes})
        self._reads = list(reads)

    def message(self, unsaid: Message | None) -> Message:
        """As a Write, without its number. `unsaid`: the schema that the log lacks."""
        schemas = [encode('Record', {'schemas': [unsaid]})] if unsaid else []
        return {'request': self.request, 'parts': [*schemas, self._changes], 'reads': self._reads}

    def unmade(self, code: str, message: str) -> FdBrokerError:
        """The caller's error when the time is over."""
        if self.sent:
            why = 'nobody said whether the change was made: try again with the same request id'
            return FdBrokerError('ERR_FDB_DEADLINE', why, True)
        return FdBrokerError(code, message, code == 'ERR_FDB_FENCED')
