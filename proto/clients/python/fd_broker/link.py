"""A member's way to its daemon: hears it, answers, and comes back to it."""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .channel import Channel, Received, close_messages
from .connect import connect, greet
from .errors import FdBrokerError, coded
from .frames import FDS_PER_BATCH
from .identity import identity_of, verify
from .kernel import close_all, poll
from .listeners import Listener
from .machine import OVER, Event
from .messages import BACK, LISTENER, NAMED, PIDFD, SEGMENT, Message
from .segment import Segment
from .state import StatePart
from .writes import Incoming

if TYPE_CHECKING:
    from .last_requests import LastRequests


class LinkPart(StatePart):
    """The link of a :class:`Member` to the daemon, and the member's holdings."""

    _last_requests: LastRequests
    _drain_s: float
    _RETRY_S = 0.1
    _GRACE_S = 0.1
    _ASK_S = 10.0

    def __init__(self, control: str, service: str, times: Mapping[str, int], log: Callable[[str], object] | None) -> None:
        super().__init__(control, service, log)
        self._times = times
        # The highest epoch of those that _prune has dropped.
        self._pruned = -1
        self._registry: dict[str, Message] = {}
        self._listeners: dict[str, Listener] = {}
        self._given_up: set[str] = set()
        """The names of listeners that the version which serves after this one does not use."""
        self._pidfds: list[int] = []
        self._offer: Message | None = None
        self._bundles: dict[int, list[Message]] = {}
        self._acks: set[tuple[int, int]] = set()
        self._bundling = threading.Lock()
        """One bundle at a time, with what is said of it."""
        self._settled: Channel | None = None
        """The link over which the holder knows what this process has: nothing may be registered before."""
        self._registered: dict[int, Message] = {}
        self._next_number = 1
        self._link: Channel | None = None
        self._links = 0
        self._holder: Message = {}
        self._holder_pidfd: int | None = None
        self._awake_since = 0.0
        self._beats = False

    def _step(self, event: Event) -> None:
        raise NotImplementedError

    def _wake(self) -> None:
        raise NotImplementedError

    def _resume(self) -> None:
        raise NotImplementedError

    def _attach(self, channel: Channel, welcome: Message, pidfd: int | None) -> None:
        self._link = channel
        self._links += 1
        self._holder = welcome
        if self._holder_pidfd is not None:
            os.close(self._holder_pidfd)
        self._holder_pidfd = pidfd
        self._tells_appended = False
        # The daemon numbers the senders of changes again for each link.
        self._incoming = Incoming()
        self._awake_since = time.monotonic()

    def _read(self, link: Channel) -> None:
        try:
            messages = link.receive()
        except FdBrokerError as error:
            self._broken(error)
            return
        if messages is None:
            self._lose()
            return
        self._hear_all(link, messages)

    def _hear_all(self, link: Channel, messages: Iterable[Received]) -> None:
        for message in messages:
            if link is self._link:
                self._hear(*message)
            else:
                close_all(message[2])

    def _lose(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.release()
        self._drop_bundles()
        self._step({'type': 'lost'})

    def _drop_bundles(self) -> None:
        """Drops received parts of bundles whose rest will not come."""
        for items in self._bundles.values():
            close_all([item['fd'] for item in items])
        self._bundles.clear()

    def _broken(self, error: FdBrokerError | OSError) -> None:
        """Handles a message of the holder that cannot be taken."""
        self._warn(str(error))
        self._reason = self._reason or coded(error)
        if self.phase in ('joining', 'ready'):
            self._step({'type': 'refused'})
        else:
            self._lose()

    def _hear(self, body: str, message: Message, fds: list[int]) -> None:
        if body == 'fds':
            self._take_batch(message, fds)
            return
        close_all(fds)
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
        elif body in ('retire', 'released'):
            self._given_up.update(message.get('given_up', []))
            if body == 'released':
                self._last_requests.on_released()
            self._step(self._said(body, message))
        elif body in ('quiesce', 'unquiesce', 'freeze', 'sealed', 'commit', 'resume', 'reinstate', 'fenced'):
            self._step(self._said(body, message))

    def _said(self, kind: str, message: Message) -> Event:
        """`sealed`: what the kernel says now of the segment that it names, else of our own."""
        if kind not in ('quiesce', 'commit', 'reinstate'):
            return {'type': 'message', 'message': {'kind': kind}, 'sealed': self._is_sealed(self._state['epoch'])}
        epoch: int = message.get('epoch', 0)
        return {'type': 'message', 'message': {'kind': kind, 'epoch': epoch}, 'sealed': self._is_sealed(epoch)}

    def _is_sealed(self, epoch: int) -> bool:
        """Also of a segment that was dropped, as nothing had been written before it was sealed: a word that names it is of the past."""
        segment = self._segments.get(epoch)
        return segment.sealed if segment is not None else 0 <= epoch <= self._pruned

    def _take_batch(self, message: Message, fds: list[int]) -> None:
        """One descriptor that is not what was announced, and nothing of the handoff is taken."""
        items = message['items']
        try:
            verify(items, fds)
        except FdBrokerError as error:
            close_all(fds)
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

    def _take_bundle(self, items: list[Message]) -> None:
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
            close_all([item['fd'] for item in items])
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

    def _keep(self, entry: Message) -> None:
        before = self._registry.get(entry['name'])
        if before is not None:
            os.close(before['fd'])
        self._registry[entry['name']] = entry

    def _put_segment(self, segment: Segment) -> None:
        present = self._segments.get(segment.epoch)
        if present is None:
            self._segments[segment.epoch] = segment
        elif segment.writable and not present.writable and segment.snapshot == present.snapshot:
            os.close(present.fd)
            present.fd, present.writable = segment.fd, True
        else:
            segment.close()
        self._step({'type': 'shared', 'top': segment.epoch})

    def _prune(self) -> None:
        """Closes segments without a reader: sealed, empty, and not the one that this process wrote in last. A daemon that is killed
        leaves one behind each time."""
        for epoch, segment in list(self._segments.items()):
            used = segment.snapshot or epoch == self._state['epoch'] or segment in self._log.segments[-1:]
            if not used and segment.sealed and segment.size <= segment.start:
                del self._segments[epoch]
                self._pruned = max(self._pruned, epoch)
                if segment in self._log.segments:
                    self._log.segments.remove(segment)
                segment.close()

    def _tell(self, body: str, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Sends without an answer: a link that cannot take it has ended, and the reader sees the end."""
        link = self._link
        if link is None:
            return
        try:
            link.send(body, message, fds)
        except FdBrokerError:
            link.close()
            self._wake()

    def _hint(self, body: str) -> None:
        """Sends what may be left out."""
        link = self._link
        if link is None:
            return
        try:
            link.hint(body, {})
        except FdBrokerError:
            link.close()
            self._wake()

    def _say_back(self, link: Channel, back: Message) -> None:
        """Sends the holdings first: the holder decides when it hears Back."""
        held: list[Message] = []
        try:
            with self._lock:
                listeners = [entry for name, entry in self._registry.items() if name in self._listeners]
                segments = [
                    {'role': SEGMENT, 'epoch': one.epoch, 'writable': one.writable, 'fd': one.fd}
                    for _, one in sorted(self._segments.items())
                ]
                for item in [*listeners, *segments, *({'role': PIDFD, 'fd': fd} for fd in self._pidfds)]:
                    held.append({**item, 'fd': os.dup(item['fd'])})
            with self._bundling:
                self._send_bundle(link, held)
                link.send('back', back)
            with self._changed:
                self._settled = link
                self._changed.notify_all()
        except Exception as error:
            # Also where there is no descriptor left: the end of this link leads to the next try.
            self._warn(f'the holder did not take back what is held: {error}')
            link.close()
            self._wake()
        finally:
            close_all([item['fd'] for item in held])

    def _send_bundle(self, link: Channel, items: list[Message]) -> None:
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

    def _register(self, item: Message) -> None:
        """Gives the daemon a descriptor to keep; over the next link, where one is lost meanwhile."""
        until = time.monotonic() + self._ASK_S

        def there() -> bool:
            return self._leaves or (self._link is not None and self._link is self._settled)

        while True:
            with self._changed:
                if not self._changed.wait_for(there, until - time.monotonic()):
                    raise FdBrokerError('ERR_FDB_DEADLINE', 'the daemon is not there just now', True)
                if self._leaves:
                    raise self._reason or FdBrokerError('ERR_FDB_CLOSED', 'this member has left')
                link = self._link
                assert link is not None
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
                    # The reader notices the end of the link soon, and another link follows.
                    self._changed.wait_for(lambda: self._link is not link or self._leaves, until - time.monotonic())
                continue
            answer = self._registered.pop(request)
            if answer.get('code'):
                raise FdBrokerError(answer['code'], answer.get('message', ''))
            return

    @property
    def _leaves(self) -> bool:
        """Whether this process accepts no more."""
        return self._over or self.phase in OVER or self._last_requests.begun

    def _await(self, answered: Callable[[], bool], link: Channel) -> None:
        with self._changed:
            links = self._links

            def settled() -> bool:
                return answered() or self._over or self._links != links or link.closed or self._link is not link

            if not self._changed.wait_for(settled, self._ASK_S):
                raise FdBrokerError('ERR_FDB_DEADLINE', 'the daemon does not answer', True)
            if not answered():
                raise FdBrokerError('ERR_FDB_CHANNEL_CLOSED', 'the daemon left before it answered', True)

    def _judge(self) -> None:
        """Is the holder dead, or has it only closed its channel? Its end comes before the pidfd tells: a grace first."""
        links = self._links

        def answer() -> None:
            # The holder has come back meanwhile: over the new link it is alive.
            if self._over or links != self._links:
                return
            dead = self._holder_pidfd is not None and poll(self._holder_pidfd, select.POLLIN, 0)
            self._step({'type': 'fate', 'fate': 'dead' if dead else 'alive', 'sealed': self._is_sealed(self._state['epoch'])})

        self._later(self._GRACE_S, answer)

    def _reconnect(self) -> None:
        """To the daemon, or to the one that is started in its place, until it answers."""
        if self._link is not None:
            self._link.release()
            self._link = None
        known = self._holder.get('incarnation', '')
        self._judge()

        def attempt() -> None:
            while not self._over and self.phase not in ('leaving', 'gone'):
                channel = None
                try:
                    channel = Channel(connect(self.control, 0))
                    hello = {
                        'service': self.service, 'intent': BACK, 'generation': self.generation, 'incarnation': known,
                        'times': self._times or None,
                    }
                    welcome, pidfd, rest = greet(channel, hello, self._ASK_S)
                except (FdBrokerError, OSError):
                    # No descriptor left, say: there will be one again.
                    if channel is not None:
                        channel.release()
                    time.sleep(self._RETRY_S)
                    continue
                with self._changed:
                    if self._over or self.phase in ('leaving', 'gone'):
                        channel.release()
                        close_all([] if pidfd is None else [pidfd])
                        close_messages(rest)
                        return
                    self._attach(channel, welcome, pidfd)
                    sealed = self._is_sealed(self._state['epoch'])
                    restarted = welcome.get('incarnation', '') != known
                    self._step({'type': 'reconnected', 'restarted': restarted, 'sealed': sealed})
                    # A restarted daemon first decides which member serves. In a handoff the daemon tells whether the work goes on.
                    if not (restarted or sealed or self._last_requests.is_handing_over) and self.phase == 'serving':
                        self._resume()
                    self._hear_all(channel, rest)
                    self._wake()
                return

        threading.Thread(target=attempt, name='fd-broker-reconnect', daemon=True).start()

    def _end_link(self) -> None:
        """Ends the link: another process serves for good. Later changes of this process go over a connection of their own."""
        link, self._link = self._link, None
        if link is not None:
            link.release()
        self._beats = False

    def _status(self) -> Message:
        position = self._log.position
        return {
            'language': f'Python {sys.version.split()[0]}',
            'role': self.phase,
            'state': {
                'sequence': position['sequence'], 'digest': position['digest'], 'entries': self._log.entries,
                'bytes': sum(segment.size for segment in self._log.segments), 'segments': len(self._log.segments),
            },
            'listeners': [{'name': name, 'accepting': one.accepting} for name, one in self._listeners.items()],
        }

    def _answer_upgrade(self, message: Message) -> None:
        why = 'a member in Python does not start its successor: start the next version yourself, it joins by itself'
        self._tell('result', {'code': 'ERR_FDB_COMMAND_UNKNOWN', 'message': why, 'request': message.get('request', 0)})

    def _answer_command(self, message: Message) -> None:
        request, name = message.get('request', 0), message.get('name', '')
        if self.phase not in ('serving', 'frozen', 'unfit'):
            why = f'process {os.getpid()} does not serve (phase {self.phase}): connect again to reach the process that does'
            self._tell('command_reply', {'request': request, 'code': 'ERR_FDB_FENCED', 'message': why, 'retryable': True})
        elif name == 'service.stop':
            # Before the reply: a moment later the commit to a next version may be sent, which would serve on.
            self._tell('cancel_upgrade', {'code': 'ERR_FDB_ABORTED', 'message': 'an operator has stopped the service'})
            body = json.dumps({'pid': os.getpid(), 'generation': self.generation}).encode()
            self._tell('command_reply', {'request': request, 'ok': True, 'body': body})
            self._last_requests.leave(self._ordered_s(message.get('body', b'')), False)
        elif name == 'service.rollback':
            self._last_requests.roll_back(request)
        else:
            why = f'this service has no command {name}'
            self._tell('command_reply', {'request': request, 'code': 'ERR_FDB_COMMAND_UNKNOWN', 'message': why})

    def _ordered_s(self, body: bytes) -> float:
        """The time of a stop; without one that of :func:`join`."""
        try:
            ordered = json.loads(body or b'{}')
        except ValueError:
            ordered = None
        ms = ordered.get('timeoutMs') if isinstance(ordered, dict) else None
        return ms / 1000 if isinstance(ms, (int, float)) and ms >= 0 else self._drain_s
