import { room } from '../seed.js'

export const channel = room(
  'channel',
  [
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
    ],
    ['channel/outbound.ts', 'if (this.#deadlineTimer === undefined) this.#armDeadline()', ''],
    [
      'channel/outbound.ts',
      'if (this.#retryTimer !== undefined || this.#failure !== null) return',
      'if (this.#failure !== null) return',
    ],
    ['channel/outbound.ts', 'if (at === -1 || entry.sent > 0) return', 'if (at === -1) return'],
    ['channel/outbound.ts', 'if (wasFirst) this.#resume()', ''],
    [
      'channel/outbound.ts',
      'Math.min(this.#backoff * 2, BACKOFF_MOST_MS)',
      'this.#backoff * 2',
      'unit/channel-failures',
      'unit/channel-deadline',
      'unit/deadlines',
    ],
    [
      'channel/outbound.ts',
      '      clearTimeout(this.#deadlineTimer)\n      this.#deadlineTimer = undefined\n    } else',
      '      this.#deadlineTimer = undefined\n    } else',
    ],
    ['channel/channel.ts', 'clearImmediate(this.#later)', ''],
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
    ],
    [
      'channel/frame-decoder.ts',
      'this.#fds.length > this.#limits.queuedFds',
      'this.#fds.length > this.#limits.queuedFds + 1000',
      'unit/channel-limits',
      'property/frames',
    ],
  ],
)
