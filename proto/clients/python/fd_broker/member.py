"""A member of a service: what an application uses."""

from __future__ import annotations

import os
import queue
import select
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

from .channel import Channel, Received, close_messages
from .connect import connect, greet
from .errors import FdBrokerError
from .health import Health
from .hooks import InOrder
from .kernel import close_all
from .last_requests import LastRequests
from .link import LinkPart
from .listeners import Listener
from .machine import Effect, Event, step_member
from .messages import JOIN, LISTENER, Message
from .sections import CODECS, Section
from .specs import Spec, bind, parse_spec, same_address

_members: weakref.WeakSet[Member] = weakref.WeakSet()


def _after_fork() -> None:
    for member in list(_members):
        member._forked()


os.register_at_fork(after_in_child=_after_fork)

TIMES = ('ready', 'quiesce', 'freeze', 'prepare', 'commit', 'probation', 'heartbeat', 'silence')


def join(
    control: str, service: str, *, health: Callable[[], bool] | None = None, times: Mapping[str, int] | None = None,
    drain: float = 30.0, timeout: float = 10.0, log: Callable[[str], object] | None = None,
) -> Member:
    """Takes this process's place in a service of the daemon at `control`: the first, or the next version of the one that serves, which
    still does when this returns. Then ask for sections and listeners, and call :meth:`Member.ready`.

    `health`: a function, told in heartbeats; False in probation brings the old version back. `times`: limits in milliseconds for
    handoffs in which this process is replaced (`ready`, `freeze`, `probation` …). `drain`: how many seconds the last requests of this process have
    after :meth:`Member.leave`. `log`: a function that is told lines.

    Raises FdBrokerError, and nothing has changed for anybody: ERR_FDB_BUSY (retryable: another is joining), ERR_FDB_VERSION,
    ERR_FDB_SERVICE, ERR_FDB_OPTION, ERR_FDB_NO_DESCRIPTORS, ERR_FDB_DENIED, ERR_FDB_NOT_A_DAEMON, ERR_FDB_FD_MISMATCH, ERR_FDB_STATE_…, ERR_FDB_DEADLINE.
    """
    for name, limit in (times or {}).items():
        if name not in TIMES:
            raise FdBrokerError('ERR_FDB_OPTION', f'there is no time {name!r}: give some of {", ".join(TIMES)}')
        if not isinstance(limit, (int, float)) or limit < 0:
            raise FdBrokerError('ERR_FDB_OPTION', f'the time {name} must be a number of milliseconds, not {limit!r}')
    if not isinstance(drain, (int, float)) or drain < 0:
        raise FdBrokerError('ERR_FDB_OPTION', f'drain must be a number of seconds, not {drain!r}')
    channel = Channel(connect(control, timeout))
    try:
        hello = {'service': service, 'intent': JOIN, 'times': times}
        welcome, pidfd, rest = greet(channel, hello, timeout)
        if not welcome.get('daemon'):
            close_messages(rest)
            close_all([] if pidfd is None else [pidfd])
            held = f'process {welcome.get("pid")} on {control} holds its sockets itself: a member in Python needs fd-broker serve'
            raise FdBrokerError('ERR_FDB_NOT_A_DAEMON', held)
    except BaseException as error:
        # The holder may have sent its Offer: the next one need not wait for the end of this process.
        why = error if isinstance(error, FdBrokerError) else FdBrokerError('ERR_FDB_ABORTED', str(error))
        if channel.greeted:
            channel.try_send('abort', {'code': why.code, 'message': why.message, 'phase': 'joining'})
        channel.release()
        raise
    member = Member(control, service, health, times or {}, log, drain)
    try:
        member._start(channel, welcome, pidfd, rest, timeout)
    except BaseException:
        member.close()
        raise
    return member


class Member(LinkPart):
    """This process's part in a service. Made by :func:`join`. All methods may be called from any thread."""

    _QUIESCE_MS, _FREEZE_MS, _SILENCE_MS, _HEARTBEAT_MS, _LAST_S = 10_000, 1000, 3000, 250, 1.0

    def __init__(
        self, control: str, service: str, health: Callable[[], bool] | None, times: Mapping[str, int],
        log: Callable[[str], object] | None, drain: float = 30.0,
    ) -> None:
        super().__init__(control, service, times, log)
        self._drain_s = drain
        self._last_requests = LastRequests(self)
        self._health = Health(health)
        self._frozen_at: Message | None = None
        self._quiesced = False
        self._served = False
        self._elsewhere: set[str] = set()
        """The names of the previous version's listeners under which this version listens at another address."""
        self._hooks: dict[str, list[Callable[[], object]]] = {'quiesce': [], 'resumed': []}
        self._jobs = InOrder(self._warn)
        self._work_ended = threading.Event()
        self._beat_at = self._ticked_at = 0.0
        self._timers: list[tuple[float, Callable[[], object]]] = []
        self._posted: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(wake_read, False)
        self._wake_read: int | None = wake_read
        self._wake_write: int | None = wake_write
        self._thread = threading.Thread(target=self._run, name='fd-broker', daemon=True)
        _members.add(self)

    @property
    def serving(self) -> bool:
        """Whether it is this process's turn. Where it is not, answers should announce the end of their connection."""
        return self._state['phase'] in ('beginning', 'serving', 'frozen', 'orphan', 'unfit') and not self._last_requests.begun

    @property
    def position(self) -> Message:
        """Where the state stands: epoch, sequence and a digest over all entries, equal in every process that has read the same."""
        with self._lock:
            self._follow()
            return self._log.position

    @overload
    def section(
        self, name: str, codec: Literal['json'] = 'json', version: int = 1, min_reader: int = 1, secret: bool = False,
    ) -> Section[Any]: ...

    @overload
    def section(
        self, name: str, codec: Literal['bytes'], version: int = 1, min_reader: int = 1, secret: bool = False,
    ) -> Section[bytes]: ...

    def section(
        self, name: str, codec: str = 'json', version: int = 1, min_reader: int = 1, secret: bool = False,
    ) -> Section[Any]:
        """A section of the state. Raises ERR_FDB_SCHEMA when this version may not read it: the one that serves goes on."""
        schema = {'name': name, 'version': version, 'min_reader': min_reader, 'codec': codec, 'secret': secret}
        if codec not in CODECS:
            raise FdBrokerError('ERR_FDB_OPTION', f'there is no codec {codec}: give one of {", ".join(CODECS)}')
        with self._lock:
            section: Section[Any] = Section(self, name, schema)
            self._sections[name] = section
            refusal = section.refusal()
        if refusal:
            self.refuse(refusal)
            raise refusal
        return section

    def listen(self, name: str, spec: str) -> Listener:
        """The listener of that name: the one that was handed over if it has this address, else bound here and given to the daemon."""
        wanted = parse_spec(spec)
        with self._lock:
            # Before bind(), which may make a path.
            if self._leaves:
                raise self._reason or FdBrokerError('ERR_FDB_CLOSED', 'this member has left')
            if name in self._listeners:
                raise FdBrokerError('ERR_FDB_LISTENER_TWICE', f'listener {name} was asked for before')
            entry = self._registry.get(name)
            fd = os.dup(entry['fd']) if entry is not None and _listens(entry, wanted) else -1
            # At the end of the probation the daemon closes its descriptors that neither Ready nor a registration has named.
            late = self._beats
            if entry is not None and entry['role'] == LISTENER and fd < 0 and not late:
                self._elsewhere.add(name)
        adopted = fd >= 0
        if not adopted:
            fd = bind(wanted)
            os.set_blocking(fd, False)
        if late or not adopted:
            try:
                self._register({'role': LISTENER, 'name': name, 'spec': spec, 'fd': fd})
            except BaseException:
                os.close(fd)
                raise
        with self._changed:
            if self._leaves:
                os.close(fd)
                raise self._reason or FdBrokerError('ERR_FDB_CLOSED', 'this member has left')
            if not adopted:
                self._keep({'role': LISTENER, 'name': name, 'spec': spec, 'fd': os.dup(fd)})
            listener = self._listeners[name] = Listener(self, name, spec, fd, adopted)
            listener._turn(self._state['accepting'])
            self._changed.notify_all()
        return listener

    def on_quiesce(self, hook: Callable[[], object]) -> None:
        """Called before another process may serve, and before this one leaves, to bring to its end what must run in one process only. The member
        waits for its return, within the limit `quiesce`. Also called if this process has lost the right to serve, or may lose it while it has no
        channel to the daemon."""
        self._hooks['quiesce'].append(hook)

    def on_resumed(self, hook: Callable[[], object]) -> None:
        """Called when the handoff failed behind a quiesce, the channel is back, or this process serves again: start that work again."""
        self._hooks['resumed'].append(hook)

    def ready(self, timeout: float = 60.0) -> None:
        """This process can serve: returns when it does. Raises why it does not, and the one before serves on. Call it once (ERR_FDB_READY_TWICE)."""
        with self._lock:
            if self.phase != 'joining' and not self._over:
                raise FdBrokerError('ERR_FDB_READY_TWICE', f'ready() was already called (phase {self.phase})')
        self._post({'type': 'adopted'})
        with self._changed:
            until = time.monotonic() + timeout
            # Another process may serve by the time that this thread wakes up.
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

    def refuse(self, error: FdBrokerError) -> None:
        """Before it serves: this version cannot take over. The one before serves on, and learns why."""
        with self._lock:
            if self.phase in ('joining', 'ready'):
                self._reason = self._reason or error
        self._post({'type': 'refused'})

    def wait(self, timeout: float | None = None) -> bool:
        """Returns True when another serves for good, or :meth:`leave` has ended the work of this process: it should end with its last request.
        False after `timeout` seconds."""
        def ends() -> bool:
            return self._over or self._last_requests.begun or (self.phase in ('leaving', 'gone') and not self._lasts)

        with self._changed:
            return self._changed.wait_for(ends, timeout)

    def leave(self) -> None:
        """Leaves without waiting for a successor, for an order to end; a signal handler may call it. Functions of :meth:`on_quiesce` are called,
        a next version that has joined may take over, and this process stops accepting: the daemon keeps listeners and state for the next
        version, and new clients wait for it. Then :meth:`wait` returns. Until :meth:`close` this process keeps the right to write, so that
        requests in flight make their changes, at most until 5 s (or half) of the time `drain` of :func:`join` are left, or until a next version
        takes over, which then makes them. If a version stands by, that one serves again at once, and makes them."""
        self._call(lambda: self._last_requests.leave(self._drain_s, True))

    def close(self) -> None:
        """Leaves at once: changes of requests in flight fail. Call :meth:`leave` before, and wait for the last connection. Without a successor the daemon keeps listeners
        and state for the next. Idempotent."""
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
            self._drop_descriptors()
            if not self._thread.is_alive():
                close_all([fd for fd in (self._wake_read, self._wake_write) if fd is not None])
                self._wake_read = self._wake_write = None

    def _drop_descriptors(self) -> None:
        for segment in self._segments.values():
            segment.close()
        self._segments, self._log.segments = {}, []
        close_all(self._pidfds)
        self._pidfds = []

    def _forked(self) -> None:
        """In a child that was forked: the member is its parent's. The child has no thread that hears the daemon, must not speak for its parent,
        and must not hold what its parent's death has to end."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        drain, self._drain = self._drain, None
        for channel in (self._link, drain.link if drain is not None else None):
            if channel is not None:
                channel.forget()
        self._link = None
        self._reason = FdBrokerError('ERR_FDB_CLOSED', f'process {os.getpid()} was forked by a member, and is none')
        for listener in self._listeners.values():
            listener._hooks.clear()
        fds = [self._wake_read, self._wake_write]
        self._wake_read = self._wake_write = None
        with self._changed:
            self._end()
            self._drop_descriptors()
        close_all([fd for fd in fds if fd is not None])

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, channel: Channel, welcome: Message, pidfd: int | None, rest: list[Received], timeout: float) -> None:
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
                # No other process can write: the application may fill its state before it is ready.
                if self.first:
                    self._write_in(self._state['epoch'])
            except FdBrokerError as error:
                self.refuse(error)
                raise

    def _post(self, event: Event) -> None:
        self._call(lambda: self._step(event))

    def _call(self, act: Callable[[], object]) -> None:
        """In the member's thread, with the lock."""
        self._posted.put(act)
        self._wake()

    def _wake(self) -> None:
        try:
            if self._wake_write is not None:
                os.write(self._wake_write, b'.')
        except OSError:
            pass

    def _later(self, seconds: float, act: Callable[[], object]) -> None:
        self._timers.append((time.monotonic() + seconds, act))
        self._wake()

    def _run(self) -> None:
        woken = self._wake_read
        assert woken is not None
        try:
            while True:
                with self._changed:
                    if self._over and self.phase == 'gone':
                        return
                    wait = self._tick()
                    link = self._link
                waiting = select.poll()
                waiting.register(woken, select.POLLIN)
                if link is not None:
                    waiting.register(link.fileno(), select.POLLIN)
                waiting.poll(max(0.0, wait) * 1000)
                with self._changed:
                    try:
                        while os.read(woken, 4096):
                            pass
                    except BlockingIOError:
                        pass
                    if link is not None and link is self._link:
                        self._read(link)
                    while not self._posted.empty():
                        self._posted.get()()
                    self._changed.notify_all()
        except BaseException as error:
            self._warn(f'the member ends by a fault of its own: {error!r}')
            with self._changed:
                self._reason = self._reason or FdBrokerError('ERR_FDB_INTERNAL', repr(error))
                self._end()
            raise

    def _tick(self) -> float:
        """Does all work that is due; returns the seconds until the next."""
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

    def _beat_soon(self) -> None:
        """The next heartbeat does not wait."""
        self._beat_at = 0.0
        self._wake()

    @property
    def _quiesce_s(self) -> float:
        return (self._times.get('quiesce') or self._QUIESCE_MS) / 1000

    @property
    def _beat_s(self) -> float:
        own = self._times.get('heartbeat') or self._HEARTBEAT_MS
        wanted = self._holder.get('heartbeat_ms') or own
        return min(own, wanted) / 1000

    @property
    def _silence_s(self) -> float:
        own = self._times.get('silence') or self._SILENCE_MS
        beat: int = self._holder.get('heartbeat_ms', 0)
        return max(own, 3 * beat) / 1000

    def _beat(self, now: float) -> None:
        link = self._link
        if link is None:
            return
        try:
            handed = {'healthy': False, 'unwell': 'an operator has rolled this member back', 'rolls_back': True}
            link.beat(handed if self._last_requests.rolls_back else self._health.said(), self._report())
        except FdBrokerError:
            link.close()
            self._wake()
        silence = self._silence_s
        if link is self._link:
            silent = now - max(link.received_at, self._awake_since) > silence
            self._step({'type': 'silent' if silent else 'heard'})

    def _step(self, event: Event) -> None:
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

    def _perform(self, effect: Effect) -> None:
        kind = effect['type']
        if kind == 'send':
            self._say(effect['message'])
        elif kind in ('accept', 'stopAccepting'):
            for listener in self._listeners.values():
                listener._turn(kind == 'accept')
            if kind == 'stopAccepting' and self._served:
                self._end_work()
        elif kind == 'closeListeners':
            self._close_listeners()
        elif kind == 'quiesce':
            self._quiesce(effect['epoch'])
        elif kind == 'unquiesce':
            self._resume()
        elif kind == 'freeze':
            self._paused = True
            self._frozen_at = self._log.position
            limit = 3 * (self._times.get('freeze') or self._FREEZE_MS) / 1000
            epoch = self._state['epoch']

            def late() -> None:
                if self._state['epoch'] == epoch:
                    self._step({'type': 'deadline'})

            # The holder's limit decides; this one only keeps the service from waiting for a holder that is stuck.
            self._later(limit, late)
        elif kind == 'thaw':
            self._paused = False
        elif kind == 'carry':
            self._carry(effect['below'])
        elif kind == 'write':
            self._write_in(effect['epoch'])
            self._served = True
            self._given_up.clear()
            self._resume()
            self._step({'type': 'begun', 'epoch': effect['epoch']})
        elif kind == 'endWriting':
            self._writing = None
            self._paused = False
            self._follow()
        elif kind == 'judge':
            self._judge()
        elif kind == 'reconnect':
            if self._last_requests.may_lose_unheard:
                self._end_work()
            self._reconnect()
        elif kind == 'drain':
            self._last_requests.on_left()
            self._end_link()
        elif kind == 'exit':
            self._end()

    def _say(self, message: Message) -> None:
        kind, epoch = message['kind'], message.get('epoch', 0)
        if kind == 'ready':
            self._beats = True
            names = list(self._registry)
            adopted = [name for name in names if name in self._listeners]
            refused = [name for name in names if name not in self._listeners or name in self._elsewhere]
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
            self._tell('unfit', {'epoch': max(0, epoch), 'code': reason.code, 'message': reason.message})
        elif kind == 'back':
            epochs = {name: max(0, message[name]) for name in ('epoch', 'top')}
            back = {**message, **epochs}
            threading.Thread(target=self._say_back, args=(self._link, back), daemon=True).start()

    def _quiesce(self, epoch: int) -> None:
        if self._end_work().is_set():
            self._step({'type': 'quiesced', 'epoch': epoch})
        else:
            self._jobs.run(lambda: self._post({'type': 'quiesced', 'epoch': epoch}))

    def _end_work(self) -> threading.Event:
        """Calls the application's functions that end its once-only work, unless they were called already. Returns what tells when all have returned."""
        if self._quiesced:
            return self._work_ended
        self._quiesced = True
        ended = self._work_ended = threading.Event()
        for hook in self._hooks['quiesce']:
            self._jobs.run(hook)
        if self._hooks['quiesce']:
            self._jobs.run(ended.set)
        else:
            ended.set()
        return ended

    def _resume(self) -> None:
        if self._quiesced and not self._last_requests.ends_work:
            self._quiesced = False
            for hook in self._hooks['resumed']:
                self._jobs.run(hook)

    @property
    def _lasts(self) -> bool:
        """Whether a listener still accepts that the version which serves does not use."""
        return any(not listener.closed for listener in self._listeners.values())

    def _close_listeners(self) -> None:
        """Clients have come in the probation to those that the version which serves does not use: these accept until no other process has them."""
        for name, listener in self._listeners.items():
            if name in self._given_up:
                listener._turn(True)
            else:
                listener._close()
        close_all([entry['fd'] for entry in self._registry.values()])
        self._registry = {}
        if self._lasts:
            self._later(self._LAST_S, self._close_last)

    def _close_last(self) -> None:
        for listener in self._listeners.values():
            listener._close_behind_queue()
        if self._lasts:
            # The application may not call accept() any more.
            self._later(self._LAST_S, self._close_all)

    def _close_all(self) -> None:
        for listener in self._listeners.values():
            listener._close()

    def _end(self) -> None:
        self._over = True
        self._writing = None
        self._end_link()
        self._drop_bundles()
        self._close_all()
        close_all([entry['fd'] for entry in self._registry.values()])
        self._registry = {}
        if self._holder_pidfd is not None:
            os.close(self._holder_pidfd)
            self._holder_pidfd = None
        if self._state['phase'] != 'gone':
            self._state = {**self._state, 'phase': 'gone'}
        self._changed.notify_all()
        self._wake()


def _listens(entry: Message, wanted: Spec) -> bool:
    """Whether what was handed over is a listener with this address. Options that are not known here do not matter."""
    return entry['role'] == LISTENER and (
        not entry['spec'] or same_address(parse_spec(entry['spec'].split('?')[0]), wanted)
    )
