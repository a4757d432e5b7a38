import { room } from '../seed.js'

export const moving = room(
  'moving',
  ['unit/holder-remainder', 'unit/connections-moves', 'unit/connections-pace', 'unit/connections-turn-work'],
  [
    [
      'moving/taker.ts',
      "this.#decision = setTimeout(() => this.#judged('alive'), DECISION_MS)\n      this.#decision.unref()",
      '',
      'unit/connections-moves',
      'unit/deadlines',
      'unit/holder-remainder',
    ],
    ['moving/taker.ts', 'DECISION_MS = 5_000', 'DECISION_MS = 5', 'unit/connections-moves', 'unit/deadlines'],
    ['moving/taker.ts', 'if (held.released) closeAll(own)\n        else ', ''],
    ['moving/taker.ts', '    held.released = true\n    closeItems(held.items)', '    held.released = true'],
    [
      'moving/taker.ts',
      'if (bytes.length > MAX_RECORD_BYTES)',
      'if (bytes.length > 1024 * MAX_RECORD_BYTES)',
    ],
    ['moving/taker.ts', "if (typeof giver !== 'number') giver.close()", ''],
    ['moving/taker.ts', 'log.seal()\n      return', 'return'],
    [
      'moving/giver.ts',
      'if (!prepareAck || prepareAck.slice !== this.#machine.pending) return',
      'if (!prepareAck) return',
    ],
    [
      'moving/giver.ts',
      'clearTimeout(this.#proof)\n    for (const source of this.#heard) source.moving.onMovable = null',
      'clearTimeout(this.#proof)',
    ],
    [
      'moving/giver.ts',
      '    link.close()\n    log.close()\n    void this.#settling',
      '    link.close()\n    void this.#settling',
    ],
    ['moving/move-log.ts', "if ((error as NativeError).code === 'EPERM') return false", ''],
    ['moving/move-log.ts', 'this.#end += ENTRY_BYTES', ''],
    ['moving/move-log.ts', '(seals & HINDERING) !== 0 || sizeOf(fd) !== 0', 'sizeOf(fd) !== 0'],
    [
      'moving/pace.ts',
      'Math.min(this.#most, this.#allowed + (now - this.#countedAt) * this.#perMs)',
      'this.#allowed + (now - this.#countedAt) * this.#perMs',
    ],
    [
      'moving/first-wave.ts',
      'if (asked === 0 || answered > 0 || late || over())',
      'if (asked === 0 || answered > 0 || over())',
      'unit/connections-moves',
      'unit/deadlines',
    ],
    [
      'moving/slice.ts',
      'this.#fds + MAX_CONNECTION_FDS <= MAX_FDS_PER_MESSAGE',
      'this.#fds <= MAX_FDS_PER_MESSAGE',
    ],
  ],
)
