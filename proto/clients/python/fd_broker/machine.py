"""The decisions of a member of a daemon, and their order: a pure function, which test/vectors/member.json holds to the real one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

State = dict[str, Any]
Event = dict[str, Any]
Effect = dict[str, Any]
Step = tuple[State, list[Effect]]


def initial_member() -> State:
    return {
        'phase': 'joining', 'holds': False, 'accepting': False, 'epoch': -1, 'source': -1, 'wayBack': -1, 'top': -1,
        'link': 'up', 'unfit': False, 'unheard': False,
    }


_RIGHT = ('beginning', 'serving', 'unfit')
OVER = ('leaving', 'gone')

def step_member(state: State, event: Event) -> Step:
    """(the next state, what is to be done, in this order)."""
    return _STEPS.get(event['type'], _same)(state, event)


def _same(state: State, _event: Event | None = None) -> Step:
    return state, []


def _send(kind: str, **facts: Any) -> Effect:
    return {'type': 'send', 'message': {'kind': kind, **facts}}


def _do(kind: str, **facts: Any) -> Effect:
    return {'type': kind, **facts}


def _on_message(state: State, event: Event) -> Step:
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
        # The member must accept, whether or not it hears its holder.
        if phase == 'orphan' and state['unheard']:
            return {**state, 'unheard': False}, []
        if phase not in ('standby', 'unfit') or state['accepting']:
            return _same(state)
        return {**state, 'accepting': True}, [_do('accept')]
    if kind == 'reinstate':
        if event['sealed'] or not state['holds'] or phase in ('joining', *OVER):
            return _same(state)
        return _begin({**state, 'epoch': message['epoch']})
    if kind == 'released':
        return _leave(state) if phase in ('standby', 'orphan') else _same(state)
    if kind in ('fenced', 'abort'):
        if phase in ('joining', 'ready'):
            return _give_up(state)
        return _same(state) if phase in OVER else _leave(state)
    return _same(state)


def _begin(state: State) -> Step:
    """Accept first, then take over what others acknowledged, then write; Serving is said when all that is done."""
    epoch = state['epoch']
    following = {
        **state, 'phase': 'beginning', 'accepting': True, 'unfit': False, 'unheard': False, 'top': max(state['top'], epoch),
    }
    effects = [] if state['accepting'] else [_do('accept')]
    return following, [*effects, _do('carry', below=epoch), _do('write', epoch=epoch)]


def _on_begun(state: State, event: Event) -> Step:
    if state['phase'] != 'beginning' or state['epoch'] != event['epoch']:
        return _same(state)
    return {**state, 'phase': 'serving'}, [_send('serving', epoch=event['epoch'])]


def _on_failed(state: State, event: Event) -> Step:
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


def _unfit(state: State) -> Step:
    return _say_unfit({**state, 'phase': 'unfit'}, [_do('endWriting')])


def _say_unfit(state: State, before: Sequence[Effect] = ()) -> Step:
    said = [_send('unfit', epoch=state['epoch'])] if state['link'] == 'up' else []
    return {**state, 'unfit': True}, [*before, *said]


def _on_adopted(state: State, _event: Event) -> Step:
    if state['phase'] != 'joining' or not state['holds']:
        return _same(state)
    following = {**state, 'phase': 'ready'}
    if state['link'] == 'down':
        return following, [_do('judge'), _do('reconnect')]
    return following, [_send('ready')]


def _on_refused(state: State, _event: Event) -> Step:
    return _give_up(state) if state['phase'] in ('joining', 'ready') else _same(state)


def _on_lost(state: State, _event: Event) -> Step:
    if state['link'] != 'up':
        return _same(state)
    down = {**state, 'link': 'down'}
    if state['phase'] == 'joining':
        return (down, [_do('judge')]) if state['holds'] else _exit(down)
    return (down, []) if state['phase'] in OVER else (down, [_do('reconnect')])


def _on_deadline(state: State, _event: Event) -> Step:
    if state['phase'] == 'joining':
        return (state, [_do('judge')]) if state['holds'] else _give_up(state)
    if state['phase'] == 'ready':
        return state, [_do('judge')]
    if state['phase'] == 'frozen':
        return {**state, 'phase': 'serving'}, [_do('thaw')]
    return _same(state)


def _on_fate(state: State, event: Event) -> Step:
    phase = state['phase']
    if event['fate'] == 'alive':
        if phase == 'joining' or (phase == 'ready' and state['link'] == 'up'):
            return _give_up(state)
        return _same(state)
    down = state if state['link'] == 'down' else {**state, 'link': 'down'}
    if phase == 'serving' and not event['sealed']:
        return down, [_do('unquiesce')]
    return _orphan(down) if phase in ('ready', 'standby') else (down, [])


def _on_silent(state: State, _event: Event) -> Step:
    """A stopped holder does not serve clients: the orphan has to accept."""
    if state['phase'] not in ('ready', 'standby'):
        return _same(state)
    return _orphan({**state, 'unheard': state['phase'] == 'standby' and not state['accepting']})


def _on_heard(state: State, _event: Event) -> Step:
    """The silence was no end: whatever the holder has decided meanwhile, it says next."""
    if state['phase'] != 'orphan' or not state['unheard'] or state['link'] != 'up':
        return _same(state)
    return {**state, 'phase': 'standby', 'accepting': False, 'unheard': False}, [_do('stopAccepting')]


def _orphan(state: State) -> Step:
    effects = [] if state['accepting'] else [_do('accept')]
    return {**state, 'phase': 'orphan', 'accepting': True}, effects


def _on_reconnected(state: State, event: Event) -> Step:
    phase = state['phase']
    if phase in ('joining', *OVER):
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


def _on_leave(state: State, _event: Event) -> Step:
    if state['phase'] in OVER:
        return _same(state)
    return _give_up(state) if state['phase'] in ('joining', 'ready') else _leave(state)


def _on_quiesced(state: State, event: Event) -> Step:
    return (state, [_send('quiesced', epoch=event['epoch'])]) if state['phase'] in ('serving', 'unfit') else _same(state)


def _on_shared(state: State, event: Event) -> Step:
    return ({**state, 'top': event['top']}, []) if event['top'] > state['top'] else _same(state)


def _on_drained(state: State, _event: Event) -> Step:
    return ({**state, 'phase': 'gone'}, [_do('exit')]) if state['phase'] == 'leaving' else _same(state)


def _give_up(state: State) -> Step:
    """Before Commit: leave nothing behind, and say that it is so."""
    return _exit(state, [_send('abort')] if state['link'] == 'up' else [])


def _exit(state: State, farewell: Sequence[Effect] = ()) -> Step:
    effects = [_do('closeListeners')] if state['holds'] else []
    return {**state, 'phase': 'gone', 'holds': False, 'accepting': False}, [*effects, *farewell, _do('exit')]


def _leave(state: State) -> Step:
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


_STEPS: dict[str, Callable[[State, Event], Step]] = {
    'message': _on_message, 'adopted': _on_adopted, 'refused': _on_refused, 'lost': _on_lost, 'deadline': _on_deadline,
    'fate': _on_fate, 'begun': _on_begun, 'failed': _on_failed, 'reconnected': _on_reconnected, 'leave': _on_leave,
    'silent': _on_silent, 'heard': _on_heard, 'quiesced': _on_quiesced, 'shared': _on_shared, 'drained': _on_drained,
}
