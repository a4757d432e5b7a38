import { room } from '../seed.js'

const FORWARDING = ['unit/state-forwarding']

export const state = room(
  'state',
  ['unit/state-waiting', 'unit/state-section', 'unit/state-requests'],
  [
    [
      'state/write-queue.ts',
      'this.#writes.length >= waitingWrites',
      'this.#writes.length > waitingWrites',
      'unit/state-waiting',
      'unit/state-limits',
    ],
    [
      'state/write-queue.ts',
      'head > waitingBytes ? this.#bytes - head : this.#bytes',
      'this.#bytes',
      'unit/state-waiting',
      'unit/state-limits',
      'unit/state-bulk',
    ],
    [
      'state/write-queue.ts',
      'if (write.draw !== undefined) return [write]\n',
      '',
      'unit/state-update',
      'unit/state-waiting',
    ],
    [
      'state/write-queue.ts',
      'this.#bytes -= write.bytes\n',
      '\n',
      'unit/state-waiting',
      'unit/state-limits',
      'unit/state-forwarding',
    ],
    ['state/requests.ts', 'this.#known.delete(this.#ring[this.#oldest]!)', ''],
    [
      'state/requests.ts',
      'known.sequence <= sequence',
      'known.sequence < sequence',
      'unit/state-requests',
      'unit/state-compaction',
    ],
    [
      'state/requests.ts',
      'return (sum + print) >>> 0 || 1',
      'return (sum + print) >>> 0',
      'unit/state-requests',
    ],
    [
      'state/forwarding.ts',
      'performance.now() - Math.max(write.at, this.#startedAt) < timeoutMs',
      'performance.now() - write.at < timeoutMs',
      ...FORWARDING,
      'unit/deadlines',
    ],
    [
      'state/forwarding.ts',
      'write.reject(write.sent ? mayBeMade(why, write.request) : refusal)',
      'write.reject(refusal)',
      ...FORWARDING,
    ],
    [
      'state/forwarding.ts',
      'onWay >= MOST_WRITES || (onWay > 0 && this.#bytes >= MOST_BYTES)',
      'onWay >= MOST_WRITES',
      ...FORWARDING,
    ],
    [
      'state/forwarding.ts',
      'if (!confirmed && performance.now() - way!.answeredAt < VIEW_MS) break\n',
      '',
      ...FORWARDING,
    ],
    ['state/compaction.ts', 'merged.segment.close()', '', 'unit/state-compaction'],
    [
      'state/compaction.ts',
      'for (const told of owner.appended) told()',
      '',
      'unit/state-compaction',
      'property/state-follow',
    ],
    [
      'state/limits.ts',
      'limits.segmentBytes = Math.min(limits.segmentBytes, DEFAULT_LIMITS.segmentBytes)',
      '',
      'unit/state-limits',
    ],
    [
      'state/limits.ts',
      'limits.recordBytes - 512 - limits.requestBytes',
      'limits.recordBytes - limits.requestBytes',
      'unit/state-limits',
      'unit/state-bulk',
      'unit/state-full',
    ],
    [
      'state/file/records.ts',
      "following.kind === 'snapshot' || following.epoch < header.epoch",
      "following.kind === 'snapshot'",
      'unit/state-file',
      'property/state-file-damage',
      'unit/state-file-mended',
    ],
  ],
)
