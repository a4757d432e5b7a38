import { room } from '../seed.js'

export const workers = room(
  'workers',
  ['unit/workers/pool', 'unit/workers/start'],
  [
    ['workers/worker-slot.ts', 'this.#failures === 1 ? 0 : backoffMs(bounds, this.#failures - 1)', '0'],
    ['workers/worker-slot.ts', 'longestMs: LONGEST_RESTART_MS', 'longestMs: Number.MAX_VALUE'],
    ['workers/worker-slot.ts', 'performance.now() - since >= BRIEF_MS ? 1 : 2', '1'],
    [
      'workers/worker-slot.ts',
      '    this.#restartsEnded = false\n    this.cancelRestart()\n',
      '    this.#restartsEnded = false\n',
    ],
    [
      'workers/worker-slot.ts',
      'if (!this.#isWanted || this.owner !== null || this.#attempt !== null) return\n',
      '',
    ],
    ['versions/upgrade-attempt.ts', 'await this.child.end(replaced.graceMs(cancelled))', 'true'],
    [
      'versions/upgrade-attempt.ts',
      'afterReading(limitMs, () => void this.#cancel(this.#lateError(limitMs)))',
      'afterReading(LONGEST_MS, () => void this.#cancel(this.#lateError(limitMs)))',
    ],
    [
      'versions/upgrade-attempt.ts',
      'if (signal.aborted) void this.#cancel(signal.reason)\n      else signal',
      'signal',
    ],
    ['versions/upgrade-attempt.ts', 'isCommitted(phase)', 'false'],
    ['workers/worker-slot.ts', 'pid => processStat(pid)?.session === child.pid', '() => true'],
    ['workers/pool.ts', '!isNeeded(), waitsUntil - now, signal', '!isNeeded(), null, signal'],
    ['workers/pool.ts', '    this.#ownership.lose()\n', ''],
    ['workers/pool.ts', 'for (const slot of this.#slots) slot.observe()\n      return', 'return'],
    ['workers/pool.ts', '      this.#ownership.regain()\n', ''],
    ['workers/worker-slot.ts', 'signals: [signal, this.#deps.ownership.signal]', 'signals: [signal]'],
    [
      'workers/worker-slot.ts',
      '      if (!ownership.mayStart || isPaused()) return\n      this.#restarts++',
      '      this.#restarts++',
    ],
    [
      'workers/pool.ts',
      'if (this.#endsWithin !== null) this.#killWithin(this.#endsWithin)\n    else if',
      'if',
    ],
    ['workers/pool.ts', 'if (at >= this.#killAt) return false\n', ''],
    [
      'workers/pool.ts',
      'if (owner === null || isDeepStrictEqual(before, order)) return',
      'if (owner === null) return',
    ],
    ['workers/pool.ts', 'if (failures.length > 0) throw failures[0]', ''],
    [
      'workers/unserved-listeners.ts',
      '  #sendIfChanged(slot: WorkerSlot, unserved: readonly UnservedListener[]): void {\n',
      '  #sendIfChanged(slot: WorkerSlot, unserved: readonly UnservedListener[]): void {\n    if (unserved.length === 0) return\n',
    ],
  ],
)
