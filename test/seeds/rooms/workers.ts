import { room } from '../seed.js'

export const workers = room(
  'workers',
  ['unit/worker-slots', 'unit/workers-start'],
  [
    ['workers/slot.ts', 'this.#failures === 1 ? 0 : backoffMs(bounds, this.#failures - 1)', '0'],
    ['workers/slot.ts', 'longestMs: LONGEST_RESTART_MS', 'longestMs: Number.MAX_VALUE'],
    ['workers/slot.ts', 'performance.now() - since >= PROVED_MS ? 1 : 2', '1'],
    [
      'workers/slot.ts',
      '    clearTimeout(this.#restTimer)\n    this.#restTimer = undefined\n    this.#attempt',
      '    this.#attempt',
    ],
    ['workers/slot.ts', 'if (!this.#wanted || this.owner !== null || this.#attempt !== null) return\n', ''],
    ['member/attempt.ts', 'await this.child.end(replaced.graceMs(cancelled))', 'true'],
    [
      'member/attempt.ts',
      'void this.#cancel(this.#late(limitMs)), limitMs)',
      'void this.#cancel(this.#late(limitMs)), limitMs * 1000)',
    ],
    [
      'member/attempt.ts',
      'if (signal.aborted) void this.#cancel(signal.reason)\n      else signal',
      'signal',
    ],
    ['member/attempt.ts', 'isCommitted(phase)', 'false'],
    ['workers/slot.ts', 'pid => statOf(pid)?.session === child.pid', '() => true'],
    [
      'workers/crew.ts',
      'const late = new Promise<void>(resolve => setTimeout(resolve, FREE_MS).unref())',
      'const late = new Promise<void>(() => {})',
    ],
    ['workers/crew.ts', 'this.#killAfter(timeoutMs + HEARD_MS)', ''],
    ['workers/crew.ts', 'if (at >= this.#lateAt) return\n', ''],
    [
      'workers/crew.ts',
      'if (owner === null || this.#told.get(slot) === owner.pid) return',
      'if (owner === null) return',
    ],
    ['workers/crew.ts', 'if (failures.length > 0) throw failures[0]', ''],
    [
      'workers/orphans.ts',
      '  #say(slot: Slot, orphans: readonly Orphan[]): void {\n',
      '  #say(slot: Slot, orphans: readonly Orphan[]): void {\n    if (orphans.length === 0) return\n',
    ],
  ],
)
