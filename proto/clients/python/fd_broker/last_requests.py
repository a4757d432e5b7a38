"""The end of a member that leaves by an order: its last requests, and a rollback."""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .errors import FdBrokerError
from .machine import OVER

if TYPE_CHECKING:
    from .member import Member

_SERVES = ('beginning', 'serving', 'frozen')
"""The phases of a process with the right to write."""
_ACCEPTS = ('beginning', 'serving', 'unfit')


class EndOrder:
    """The orders to end this process. The earliest end counts, so a later order can only shorten the time."""

    LAST_S, LEAST_S = 5.0, 0.5
    """At most this much of the ordered time is kept for connections that remain after the leaving, of a short time half. The last requests
    get the least time even if less was ordered."""

    def __init__(self) -> None:
        self.given = False
        self.hand_back = True
        """False as soon as one order says so: the version that stands by must not serve again instead of this one."""
        self.leave_at = self.end_at = math.inf

    def give(self, seconds: float) -> None:
        self.given = True
        now = time.monotonic()
        if now + seconds < self.end_at:
            self.end_at = now + seconds
            self.leave_at = min(self.leave_at, now + max(seconds - min(seconds / 2, self.LAST_S), self.LEAST_S))


class LastRequests:
    """The last requests of a process that leaves its daemon without a successor. When it has left, it writes no more: a request that changes
    the state would wait for a next version. So these requests are answered before. Everything here needs the member's lock."""

    _LOOK_S = 0.05
    """A handoff that has failed shows in its segments, which nothing tells."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self.order = EndOrder()
        self.begun = False
        """This process accepts no more, and waits until the application closes the member."""
        self.ends_work = False
        """Once-only work has ended for good."""
        self.rolls_back = False
        """The work has ended, and the daemon is asked to let the version that stands by take over."""
        self._rollbacks: list[int] = []
        self._standby_released = False
        self._leaves_itself = False
        """No other version has taken over."""
        self._running = False

    def leave(self, seconds: float, hand_back: bool) -> None:
        """Leaves within that time. In the member's thread."""
        if self._member.phase in OVER:
            return
        self.order.hand_back = self.order.hand_back and hand_back
        self.order.give(seconds)
        self._run_once()

    def roll_back(self, request: int) -> None:
        """Leaves to the version that stands by; serves on if that one can serve no more. In the member's thread."""
        if self.stands_by:
            self._rollbacks.append(request)
            self._run_once()
        else:
            self._answer_rollback(request, self._no_standby())

    def on_released(self) -> None:
        """No version stands by any more."""
        self._standby_released = True

    def on_left(self) -> None:
        """Before the link ends. After an order to stop no other version serves instead, unless it had taken over before."""
        serves_none = self._leaves_itself and not self.order.hand_back
        self._answer_rollbacks(self._no_standby() if serves_none else None)

    @property
    def stands_by(self) -> bool:
        """Until the daemon reports that no version stands by any more, which may be a moment late."""
        state = self._member._state
        return state['phase'] in ('serving', 'leaving') and state['source'] != 0 and not self._standby_released

    @property
    def may_lose_unheard(self) -> bool:
        """Whether a daemon to which this process has no link can give the right to another process. The daemon accepts no new joiner then."""
        return self.stands_by or self._has_joiner

    @property
    def is_handing_over(self) -> bool:
        return self._member._state['link'] == 'up' and self._has_joiner

    @property
    def _has_joiner(self) -> bool:
        """The daemon shares the two segments of a handoff before it makes the Offer, and seals them if the handoff fails. A single one may be
        left of the handoff to this process."""
        member = self._member
        state = member._state
        if state['phase'] not in (*_SERVES, 'unfit'):
            return False
        later = [one for epoch, one in member._segments.items() if epoch > state['epoch'] and not one.sealed]
        return len(later) > 1

    @property
    def _is_taken(self) -> bool:
        """Whether another process takes the requests. A standby does so only if a daemon lives that gives the right to it."""
        stood_by = self.order.hand_back and self.stands_by and self._member._state['link'] == 'up'
        return self.is_handing_over or stood_by

    def _run_once(self) -> None:
        self._member._changed.notify_all()
        if not self._running:
            self._running = True
            threading.Thread(target=self._run, name='fd-broker-leave', daemon=True).start()

    def _run(self) -> None:
        member = self._member
        with member._changed:
            if not self.order.given:
                self._hand_back()
            if self.order.given:
                self._finish_work()
                while member.phase in _SERVES and not self._is_taken and self._answer():
                    self._finish_work()
                if member.phase in ('joining', 'ready'):
                    closed = FdBrokerError('ERR_FDB_CLOSED', 'the application closed this member before it served')
                    member._reason = member._reason or closed
                self._leaves_itself = True
                member._step({'type': 'leave'})
                member._wake()
            self._running = False

    def _answer(self) -> bool:
        """Returns when another process takes the requests, or when this process must leave to end in time: whether a next version has joined.
        The daemon keeps the listeners, whose clients wait."""
        member = self._member
        self.begun = True
        for listener in member._listeners.values():
            listener._close()
        member._changed.notify_all()
        self._until(lambda: self._is_taken or member.phase not in _SERVES)
        return self.is_handing_over

    def _finish_work(self) -> None:
        """A running handoff ends first, because its successor may serve afterwards."""
        self._until(lambda: not self.is_handing_over)
        member = self._member
        if member.phase not in (*_SERVES, 'unfit'):
            return
        if not self.order.hand_back and not self._standby_released:
            self._standby_released = True
            member._tell('end_probation', {'closing': True})
        self._end_work()

    def _end_work(self) -> None:
        member = self._member
        if member.phase == 'serving':
            self.ends_work = True
            ended = member._end_work()
            self._until(ended.is_set, member._quiesce_s)

    def _hand_back(self) -> None:
        """This process must not leave by itself: the daemon may just have released it, and then no process would serve."""
        member = self._member
        self._until(lambda: not self.is_handing_over or self.order.given)
        self._end_work()
        self.rolls_back = True
        asked = time.monotonic()
        member._beat_soon()
        # A daemon of a release that does not know the order lets the standby take over when the health has been bad for so long.
        limit = 2 * (member._silence_s + member._beat_s)
        self._until(lambda: member.phase not in _ACCEPTS or not self.stands_by or self.order.given, limit)
        self.rolls_back = False
        # The probation may have ended, and a version that waited for that may have joined: if its handoff fails, this process serves on.
        self._until(lambda: member.phase != 'frozen' or self.order.given)
        if member.phase not in _ACCEPTS or self.order.given:
            return
        took = round(time.monotonic() - asked, 3)
        late = f'the version that stands by has not taken over within {took:g} s, so process {os.getpid()} serves on'
        failure = FdBrokerError('ERR_FDB_DEADLINE', late, True) if self.stands_by else self._no_standby()
        self.ends_work = False
        member._resume()
        member._beat_soon()
        self._answer_rollbacks(failure)

    def _no_standby(self) -> FdBrokerError:
        return FdBrokerError('ERR_FDB_NO_STANDBY', f'no version stands by for process {os.getpid()}')

    def _answer_rollbacks(self, failure: FdBrokerError | None) -> None:
        requests, self._rollbacks = self._rollbacks, []
        for request in requests:
            self._answer_rollback(request, failure)

    def _answer_rollback(self, request: int, failure: FdBrokerError | None) -> None:
        if failure is None:
            body = json.dumps({'pid': os.getpid(), 'generation': self._member.generation}).encode()
            self._member._tell('command_reply', {'request': request, 'ok': True, 'body': body})
        else:
            facts = {'code': failure.code, 'message': failure.message, 'retryable': failure.retryable}
            self._member._tell('command_reply', {'request': request, **facts})

    def _until(self, holds: Callable[[], bool], seconds: float = math.inf) -> None:
        """Returns when `holds` returns True, after that time, or when this process must leave to end in time."""
        latest = time.monotonic() + seconds
        while not self._member._over and not holds():
            left = min(latest, self.order.leave_at) - time.monotonic()
            if left <= 0:
                return
            self._member._changed.wait(min(left, self._LOOK_S))
