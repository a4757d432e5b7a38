import { room } from '../seed.js'

export const connections = room(
  'connections',
  ['unit/holder/remainder', 'unit/connections/moves', 'unit/connections/pace', 'unit/connections/turn-work'],
  [
    [
      'connections/receiver.ts',
      "this.#decision = afterReading(DECISION_MS, () => this.#resolveDoubt('alive'), { unref: true })",
      '',
      'unit/connections/moves',
      'unit/wire/deadlines',
      'unit/holder/remainder',
    ],
    [
      'connections/receiver.ts',
      'DECISION_MS = 5_000',
      'DECISION_MS = 5',
      'unit/connections/moves',
      'unit/wire/deadlines',
    ],
    ['connections/receiver.ts', 'if (held.released) closeAll(own)\n        else ', ''],
    [
      'connections/receiver.ts',
      '    held.released = true\n    closeItems(held.items)',
      '    held.released = true',
    ],
    [
      'connections/receiver.ts',
      'if (bytes.length > MAX_RECORD_BYTES)',
      'if (bytes.length > 1024 * MAX_RECORD_BYTES)',
    ],
    ['connections/receiver.ts', "if (typeof sender !== 'number') sender.close()", ''],
    ['connections/receiver.ts', 'log.seal()\n      return', 'return'],
    [
      'connections/sender.ts',
      'if (!prepareAck || prepareAck.slice !== this.#machine.pending) return',
      'if (!prepareAck) return',
    ],
    [
      'connections/sender.ts',
      'clearTimeout(this.#proof)\n    for (const moving of this.#watched) moving.onMovable = null',
      'clearTimeout(this.#proof)',
    ],
    [
      'connections/sender.ts',
      '    link.close()\n    log.close()\n    void this.#returning',
      '    link.close()\n    void this.#returning',
    ],
    ['connections/move-log.ts', "if ((error as NativeError).code === 'EPERM') return false", ''],
    ['connections/move-log.ts', 'this.#end += ENTRY_BYTES', ''],
    ['connections/move-log.ts', '(seals & HINDERING) !== 0 || sizeOf(fd) !== 0', 'sizeOf(fd) !== 0'],
    [
      'connections/sender.ts',
      'Math.min(this.#most, this.allowed + (now - this.#countedAt) * this.#perMs)',
      'this.allowed + (now - this.#countedAt) * this.#perMs',
    ],
    [
      'connections/move-slice.ts',
      'if (asked === 0 || answered > 0 || late || over())',
      'if (asked === 0 || answered > 0 || over())',
      'unit/connections/moves',
      'unit/wire/deadlines',
    ],
    [
      'connections/move-slice.ts',
      'this.#fds + MAX_CONNECTION_FDS > MAX_FDS_PER_MESSAGE',
      'this.#fds > MAX_FDS_PER_MESSAGE',
    ],
  ],
)
