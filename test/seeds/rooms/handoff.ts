import { room } from '../seed.js'

const LINK = ['unit/wire/bundle', 'unit/wire/link-beats', 'unit/wire/channel-connect']
const MEMBER = ['unit/handoff/member-machine', 'unit/handoff/embedded', 'exploration/exploration']
const HOLDER = ['unit/handoff/holder-machine', 'unit/handoff/embedded', 'exploration/exploration']

export const handoff = room(
  'handoff',
  ['unit/handoff/move-machine', 'exploration/exploration'],
  [
    [
      'handoff/move-machine.ts',
      'if (pending === NO_SLICE || event.slice !== pending) return { state, effects: [] }',
      'if (pending === NO_SLICE) return { state, effects: [] }',
    ],
    ['handoff/move-machine.ts', 'over: state.over || !event.written', 'over: state.over'],
    ['handoff/move-machine.ts', 'if (state.over || held !== NO_SLICE)', 'if (held !== NO_SLICE)'],
    [
      'wire/link.ts',
      'this.channel.unreadBytes < BEATS_UNREAD_BYTES',
      'this.channel.unreadBytes >= 0',
      ...LINK,
    ],
    ['wire/link.ts', 'this.#incomingFds -= items.length', '', 'unit/wire/channel-bounds'],
    [
      'wire/link.ts',
      "pending.limit(Math.max(0, until - performance.now()), () =>\n      pending.reject(deadlineError('the acknowledgement of the descriptors', timeoutMs)),\n    )",
      '',
      ...LINK,
      'unit/wire/deadlines',
    ],
    [
      'handoff/effect-queue.ts',
      'later.step !== step || !this.#driver.needs(effect, later.effect)',
      'later.step === step || !this.#driver.needs(effect, later.effect)',
      'unit/os/unsupported-machine',
      'exploration/exploration',
    ],
    [
      'handoff/member-machine.ts',
      "if (phase !== 'joining' || state.holds) return same(state)",
      "if (phase !== 'joining') return same(state)",
      'unit/handoff/member-machine',
    ],
    [
      'handoff/member-machine.ts',
      "if (sealed || !state.holds || phase === 'joining'",
      "if (!state.holds || phase === 'joining'",
      ...MEMBER,
    ],
    [
      'handoff/member-machine.ts',
      "if (state.phase !== 'beginning' || state.epoch !== epoch) return same(state)",
      "if (state.phase !== 'beginning') return same(state)",
      ...MEMBER,
    ],
    [
      'handoff/member-machine.ts',
      "if (accepts(state.phase) || state.phase === 'frozen') effects.push({ type: 'endWriting' })",
      "if (accepts(state.phase)) effects.push({ type: 'endWriting' })",
      ...MEMBER,
    ],
    ['handoff/commit.ts', 'if (epoch !== before.grant) return same(before)', '', ...HOLDER],
    [
      'handoff/holder-machine.ts',
      "if (id === state.owner && state.phase === 'quiescing') return freeze(state)",
      '',
      ...HOLDER,
    ],
    [
      'handoff/holder-machine.ts',
      "const alone = phase === 'idle' && owner !== NOBODY && !down.includes(owner) && bound.length === 0",
      "const alone = phase === 'idle' && owner !== NOBODY && !down.includes(owner)",
      ...HOLDER,
    ],
    ['handoff/commit.ts', 'bound: [...state.bound, state.standby],\n', '', ...HOLDER],
  ],
)
