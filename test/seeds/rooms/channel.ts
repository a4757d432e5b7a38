import { room } from '../seed.js'

export const channel = room(
  'channel',
  [
    'unit/channel-remainder',
    'unit/deadlines',
    'unit/channel-bounds',
    'unit/channel-deadline',
    'unit/channel-failures',
    'unit/channel-limits',
    'unit/channel-messages',
    'unit/channel-pending',
    'unit/channel-turns',
  ],
  [
    [
      'channel/outbound.ts',
      'if (entry.deadline > performance.now()) {\n      this.#armDeadline()\n      return',
      'if (entry.deadline > performance.now()) {\n      return',
      'unit/channel-remainder',
    ],
    [
      'channel/outbound.ts',
      'if (this.#deadlineTimer === undefined) this.#armDeadline()',
      '',
      'unit/channel-remainder',
    ],
    ['channel/outbound.ts', 'if (this.#failure !== null) return\n        this.#shift()', 'this.#shift()'],
    ['channel/outbound.ts', 'if (at === -1 || entry.sent > 0) return', 'if (at === -1) return'],
    ['channel/outbound.ts', 'if (wasFirst) this.#resume()', '', 'unit/channel-limits'],
    [
      'channel/outbound.ts',
      'Math.min(this.#backoff * 2, BACKOFF_MOST_MS)',
      'this.#backoff * 2',
      'unit/channel-limits',
    ],
    [
      'channel/outbound.ts',
      '      clearTimeout(this.#deadlineTimer)\n      this.#deadlineTimer = undefined\n    } else',
      '      this.#deadlineTimer = undefined\n    } else',
    ],
    [
      'channel/channel.ts',
      'if (failure !== undefined || this.#isClosed || this.#paused || this.#decoder.pending) break',
      'if (failure !== undefined || this.#paused || this.#decoder.pending) break',
    ],
    ['channel/channel.ts', 'closeAll(this.#decoder.takeFds())', ''],
    ['channel/channel.ts', 'return this.#decoder.midFrame ? cutError() : null', 'return null'],
    [
      'channel/channel.ts',
      '    this.#paused = false\n    this.#watch()\n    this.#continueLater()',
      '    this.#paused = false\n    this.#watch()',
    ],
    [
      'channel/pending.ts',
      "    this.#limit?.clear()\n    this.#signal?.removeEventListener('abort', this.#aborted)",
      "    this.#signal?.removeEventListener('abort', this.#aborted)",
    ],
    ['channel/pending.ts', "    this.#signal?.removeEventListener('abort', this.#aborted)\n", ''],
    [
      'channel/control-listener.ts',
      'this.#pause = setTimeout(() => this.#poll?.start(READABLE), PAUSE_MS)',
      '',
      'unit/control-socket',
      'unit/channel-connect',
      'unit/channel-failures',
      'e2e/descriptors-exhausted',
    ],
    [
      'channel/frame-decoder.ts',
      'this.#fds.length > this.#limits.queuedFds',
      'this.#fds.length > this.#limits.queuedFds + 1000',
      'unit/channel-limits',
      'property/frames',
      'unit/channel-remainder',
    ],
  ],
)
