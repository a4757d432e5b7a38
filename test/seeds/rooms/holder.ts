import { room } from '../seed.js'

const PROBATION = ['unit/holder/probation', 'unit/holder/peers']

export const holder = room(
  'holder',
  [
    'unit/holder/remainder',
    'unit/holder/admission',
    'unit/holder/peers',
    'unit/holder/registry',
    'unit/holder/segment-set',
  ],
  [
    [
      'holder/probation.ts',
      'const fresh = readUntil - peer.heartbeatAt <= beat * 2',
      'const fresh = true',
      ...PROBATION,
    ],
    [
      'holder/probation.ts',
      'over && fresh && hears && lives && peer.healthy && peer.link.open',
      'over && fresh && hears && lives && peer.link.open',
      ...PROBATION,
    ],
    [
      'holder/probation.ts',
      'readUntil - Math.max(peer.healthyAt, awakeSince) > patience',
      'readUntil - peer.healthyAt > patience',
      ...PROBATION,
    ],
    [
      'holder/probation.ts',
      'readUntil - this.#since >= probation && this.#host.mayEnd()',
      'readUntil - this.#since >= probation',
      ...PROBATION,
    ],
    [
      'holder/times.ts',
      'Math.max(silenceMs, BEATS_OF_SILENCE * heartbeatMs)',
      'Math.min(silenceMs, BEATS_OF_SILENCE * heartbeatMs)',
      'unit/holder/times',
      ...PROBATION,
    ],
    [
      'holder/times.ts',
      "    case 'preparing':\n      return prepare",
      "    case 'preparing':\n      return undefined",
      'unit/holder/times',
      'unit/wire/deadlines',
    ],
    [
      'holder/times.ts',
      'silentMs > waitingSilence(times) ? Math.min(limit, heartbeat) : limit',
      'limit',
      'unit/holder/times',
      'unit/wire/deadlines',
    ],
    [
      'holder/times.ts',
      'if (silence <= 2 * heartbeat)',
      'if (silence <= heartbeat)',
      'unit/holder/times',
      'unit/holder/remainder',
    ],
    ['holder/renewal.ts', 'if (now < this.#retryAt) return\n', '', 'unit/holder/renewal'],
    ['holder/renewal.ts', 'this.#backoff.next()', 'IN_BACKGROUND.firstMs', 'unit/holder/renewal'],
    [
      'holder/admission.ts',
      'const limit = afterReading(options.timeoutMs, silent, { unref: true })',
      'const limit = afterReading(options.timeoutMs * 1000, silent, { unref: true })',
      'unit/holder/admission',
      'unit/wire/deadlines',
    ],
    [
      'holder/admission.ts',
      'who.uid !== own && who.uid !== 0 && !options.mayConnect?.(who.uid)',
      'who.uid !== own && who.uid !== 0 && options.mayConnect?.(who.uid) === false',
    ],
    [
      'holder/peers.ts',
      '    known.link = candidate.link\n    known.returning = true',
      '    known.link = candidate.link',
    ],
    ['holder/peers.ts', 'if (peer.link !== link) return\n', ''],
    [
      'holder/peers.ts',
      '    this.#handler.forgotten(peer)\n    peer.pidfd?.close()',
      '    this.#handler.forgotten(peer)',
    ],
    [
      'holder/segment-set.ts',
      'if (segment.epoch < epoch) this.#drop(segment)',
      'if (segment.epoch <= epoch) this.#drop(segment)',
    ],
    [
      'holder/message-handler.ts',
      'if (peer.healthy) peer.healthyAt = peer.heartbeatAt',
      'peer.healthyAt = peer.heartbeatAt',
      'unit/holder/peers',
      'unit/holder/probation',
      'unit/member/heartbeats',
      'unit/holder/remainder',
    ],
  ],
)
