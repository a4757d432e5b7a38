"""The connection of a process that does not serve any more."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING

from .channel import Channel, Received, close_messages
from .connect import DRAINING, connect, greet
from .errors import FdBrokerError
from .identity import verify
from .kernel import close_all, poll
from .messages import APPLIED, CONFLICT, REFUSED, SEGMENT, Message
from .segment import Segment
from .writes import Forwarded

if TYPE_CHECKING:
    from .state import StatePart

Bundles = dict[int, list[tuple[Message, int]]]


class Drain:
    """The connection of a process that does not serve any more: says that it is there, gets newer state, and sends its changes."""

    _BEAT_S = 0.25

    def __init__(self, member: StatePart) -> None:
        self._member = member
        self.link: Channel | None = None
        self._channel: Channel | None = None
        """The link, when changes can be sent over it."""
        self._numbers = 0
        self._answers: dict[int, Message | None] = {}
        self._closed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name='fd-broker-drain', daemon=True)
        self._thread.start()

    def forward(self, asked: Forwarded, unsaid: Message | None, until: float) -> Message | None:
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
            before, asked.sent = asked.sent, True
            # A daemon that does not read must not keep others from the state.
            changed.release()
            try:
                failure = channel.try_send('write', {'number': number, **asked.message(unsaid)})
            finally:
                changed.acquire()
            if failure is not None:
                # The daemon ignores a frame that is not whole.
                asked.sent = before
                del self._answers[number]
                if failure.code == 'ERR_FDB_FRAME_TOO_LARGE':
                    raise failure
                self._drop(channel)
                continue
            changed.wait_for(lambda: self._answers[number] or self._channel is not channel or self._closed, left)
            answer = self._answers.pop(number)
            if answer is None:
                continue
            outcome = answer.get('outcome', 0)
            if outcome in (APPLIED, CONFLICT):
                return answer
            if outcome == REFUSED:
                raise FdBrokerError(answer.get('code') or 'ERR_FDB_FENCED', answer.get('message', ''), answer.get('retryable', False))
            # The next connection follows after a pause.
            self._drop(channel)
        return None

    def close(self) -> None:
        """Makes waiting changes here, where this process can make them. Does not wait: the thread says once more how this process is."""
        with self._member._changed:
            self._closed = True
            self._closing.set()
            self._channel = None
            self._member._changed.notify_all()
            if self.link is not None:
                self.link.end_reading()

    def join(self, seconds: float) -> None:
        if threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def _drop(self, channel: Channel) -> None:
        if self._channel is channel:
            self._channel = None
            self._member._changed.notify_all()
        channel.close()

    def _run(self) -> None:
        member = self._member
        while not self._closed:
            channel: Channel | None = None
            try:
                channel = Channel(connect(member.control, 1.0))
                with member._lock:
                    self.link = channel
                    if self._closed:
                        channel.end_reading()
                    top = max(member._segments, default=0)
                hello = {
                    'service': member.service, 'intent': DRAINING, 'generation': member.generation, 'top': top,
                    'capabilities': ['writes', 'snapshots'],
                }
                welcome, pidfd, rest = greet(channel, hello, 1.0)
                close_all([] if pidfd is None else [pidfd])
                with member._changed:
                    if 'writes' in welcome['capabilities'] and not self._closed:
                        self._channel = channel
                    member._changed.notify_all()
                self._listen(channel, rest)
                if self._closed:
                    channel.beat({'healthy': True}, member._report())
            except (FdBrokerError, OSError):
                pass
            with member._changed:
                self.link = None
                if self._channel is channel:
                    self._channel = None
                member._changed.notify_all()
            if channel is not None:
                channel.release()
            self._closing.wait(self._BEAT_S)

    def _listen(self, channel: Channel, messages: list[Received]) -> None:
        bundles: Bundles = {}
        try:
            self._hear(channel, messages, bundles)
        finally:
            # Received parts of bundles whose rest will not come.
            for items in bundles.values():
                close_all([fd for _, fd in items])

    def _hear(self, channel: Channel, messages: list[Received] | None, bundles: Bundles) -> None:
        member, beat_at = self._member, 0.0
        while messages is not None and not self._closed and not channel.closed:
            while messages:
                body, message, fds = messages.pop(0)
                try:
                    if body == 'fds':
                        self._take_batch(channel, message, fds, bundles)
                        continue
                    close_all(fds)
                    if body == 'written':
                        with member._changed:
                            # The caller may have stopped waiting.
                            if message.get('number', 0) in self._answers:
                                self._answers[message['number']] = message
                                member._changed.notify_all()
                except BaseException:
                    close_messages(messages)
                    raise
            now = time.monotonic()
            if now >= beat_at:
                beat_at = now + self._BEAT_S
                channel.beat({'healthy': True}, member._report())
            messages = channel.receive() if poll(channel.fileno(), select.POLLIN, self._BEAT_S) else []

    def _take_batch(self, channel: Channel, message: Message, fds: list[int], bundles: Bundles) -> None:
        try:
            verify(message['items'], fds)
        except BaseException:
            close_all(fds)
            raise
        number = message.get('bundle', 0)
        items = bundles.setdefault(number, [])
        items += zip(message['items'], fds)
        channel.send('fds_ack', {'bundle': number, 'index': message.get('index', 0), 'verified': len(fds)})
        if message.get('last'):
            self._take(bundles.pop(number))

    def _take(self, items: list[tuple[Message, int]]) -> None:
        """Keeps new segments, closes all else."""
        member = self._member
        with member._changed:
            while items:
                item, fd = items.pop(0)
                try:
                    wanted = item.get('role') == SEGMENT and item.get('epoch', 0) not in member._segments and not member._over
                    segment = Segment(fd, False) if wanted else None
                    if segment is not None and segment.snapshot and member._start_from(segment):
                        continue
                except BaseException:
                    close_all([fd, *(other for _, other in items)])
                    raise
                if segment is None or segment.snapshot or segment.epoch in member._segments:
                    os.close(fd)
                else:
                    member._segments[segment.epoch] = segment
            member._follow()
