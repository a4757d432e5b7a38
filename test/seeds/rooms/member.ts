import { room } from '../seed.js'

export const member = room(
  'member',
  ['unit/member-duty', 'unit/member-departure', 'unit/member-heartbeats'],
  [
    ['member/duty.ts', "      if (this.#turn === 'ours') tell()", '      tell()', 'unit/member-duty'],
    ['member/duty.ts', "if (this.#turn !== 'ended') return\n", '\n', 'unit/member-duty'],
    [
      'member/duty.ts',
      "if (this.#turn === 'not yet' || this.#turn === 'another’s') return\n",
      "if (this.#turn === 'another’s') return\n",
      'unit/member-duty',
    ],
    [
      'member/duty.ts',
      "if (this.#turn === 'ours') {\n      this.#turn = 'ended'",
      "{\n      this.#turn = 'ended'",
      'unit/member-duty',
    ],
    [
      'member/duty.ts',
      'this.#run.late.abort()\n  }\n\n  /** The handoff',
      '}\n\n  /** The handoff',
      'unit/member-duty',
    ],
    [
      'member/heartbeat.ts',
      'Math.min(link.idleMs, now - awakeSince)',
      'link.idleMs',
      'unit/member-heartbeats',
    ],
    ['member/heartbeat.ts', '    clearInterval(this.#timer)\n', '\n', 'unit/member-heartbeats'],
    [
      'member/departure.ts',
      "if (this.#stage === 'retired') this.#stage = 'stays'\n    else if",
      'if',
      'unit/member-departure',
    ],
    [
      'member/departure.ts',
      "if (word === 'released') this.#told = word\n    else if (this.#told !== 'released')",
      "if (word === 'released') this.#told = word\n    else",
      'unit/member-departure',
    ],
    ['member/departure.ts', 'this.#reason ??= error', 'this.#reason = error', 'unit/member-departure'],
    [
      'member/append-notice.ts',
      'Math.max(0, this.#toldAt + EVERY_MS - performance.now())',
      '0',
      'unit/append-notice',
    ],
    ['member/append-notice.ts', 'this.#appended.delete(this.#note)', '', 'unit/append-notice'],
    ['member/safekeeping.ts', 'if (this.#kept.has(name)) store.drop(name)', '', 'unit/safekeeping'],
    [
      'member/reconnect.ts',
      'if (signal.aborted) return null\n',
      '',
      'unit/member-back',
      'unit/member-deadlines',
    ],
    [
      'member/answers.ts',
      'await askOnce(question, timeout, signal)',
      'await askOnce(question, 1000 * timeout, signal)',
      'unit/member-answers',
      'unit/deadlines',
    ],
    [
      'member/late-writes.ts',
      'epoch <= shelf.top',
      'epoch < shelf.top',
      'unit/member-follow',
      'unit/state-forwarding',
    ],
  ],
)
