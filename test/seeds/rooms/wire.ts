import { room } from '../seed.js'

const FOREIGN = 'unit/wire/channel-foreign-users'

export const wire = room(
  'wire',
  [
    'unit/wire/channel-remainder',
    'unit/wire/deadlines',
    'unit/wire/channel-bounds',
    'unit/wire/channel-deadline',
    'unit/wire/channel-failures',
    'unit/wire/channel-limits',
    'unit/wire/channel-messages',
    'unit/wire/channel-pending',
    'unit/wire/channel-turns',
  ],
  [
    ['wire/channel.ts', 'if (this.#waits(user)) return\n    charge', 'charge', FOREIGN],
    ['wire/channel.ts', 'if (waits && !this.#delivered && this', 'if (waits && this', FOREIGN],
    [
      'wire/channel.ts',
      '(fds === null ? null : this.foreignUser?.demandFds()) ?? got.bytes',
      'got.bytes',
      FOREIGN,
    ],
    ['wire/channel.ts', 'this.foreignUser === undefined ? limits : SMALL_FRAMES', 'limits', FOREIGN],
    [
      'wire/outbound.ts',
      'if (entry.deadline > performance.now()) {\n      this.#armDeadline()\n      return',
      'if (entry.deadline > performance.now()) {\n      return',
      'unit/wire/channel-remainder',
    ],
    [
      'wire/outbound.ts',
      'if (this.#deadlineTimer === undefined) this.#armDeadline()',
      '',
      'unit/wire/channel-remainder',
    ],
    ['wire/outbound.ts', 'if (this.#failure !== null) return\n        this.#shift()', 'this.#shift()'],
    [
      'wire/outbound.ts',
      'new Backoff(RETRY_BOUNDS)',
      'new Backoff({ firstMs: 1, longestMs: Number.MAX_VALUE })',
      'unit/wire/channel-limits',
    ],
    [
      'wire/outbound.ts',
      '      clearTimeout(this.#deadlineTimer)\n      this.#deadlineTimer = undefined\n    } else',
      '      this.#deadlineTimer = undefined\n    } else',
    ],
    [
      'wire/channel.ts',
      'while (!this.#paused && !this.#isClosed) {',
      'while (!this.#paused) {',
      'unit/wire/channel-remainder',
    ],
    ['wire/channel.ts', 'closeAll(this.#decoder.takeFds())', ''],
    ['wire/channel.ts', 'return this.#decoder.midFrame ? cutError() : null', 'return null'],
    [
      'wire/channel.ts',
      '    this.#paused = false\n    this.#watch()\n    this.#continueLater()',
      '    this.#paused = false\n    this.#watch()',
    ],
    [
      'wire/pending.ts',
      "    this.#limit?.clear()\n    this.#signal?.removeEventListener('abort', this.#aborted)",
      "    this.#signal?.removeEventListener('abort', this.#aborted)",
    ],
    ['wire/pending.ts', "    this.#signal?.removeEventListener('abort', this.#aborted)\n", ''],
    [
      'wire/control-listener.ts',
      'this.#retryTimer = setTimeout(() => this.#poll?.start(READABLE), ms)',
      '',
      'unit/member/control-socket',
      'unit/wire/channel-connect',
      'unit/wire/channel-failures',
      'e2e/descriptors-exhausted',
    ],
    [
      'wire/frame-decoder.ts',
      'this.#fds.length > this.#limits.queuedFds',
      'this.#fds.length > this.#limits.queuedFds + 1000',
      'unit/wire/channel-limits',
      'property/frames',
      'unit/wire/channel-remainder',
    ],
  ],
)
