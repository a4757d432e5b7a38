import { room } from '../seed.js'

const WRITES = ['unit/daemon/forwarded-writes', 'unit/daemon/followers']

const COPIES = 'unit/daemon/segment-copies'

export const daemon = room(
  'daemon',
  [
    'unit/member/runtime',
    'unit/daemon/access-check',
    'unit/daemon/descriptor-table',
    'unit/daemon/persisted-fds',
  ],
  [
    [
      'daemon/service/segment-copies.ts',
      'if (performance.now() >= until) return',
      'if (until < 0) return',
      COPIES,
    ],
    ['daemon/service/segment-copies.ts', 'if (!skips(at)) continue', 'if (at >= 0) continue', COPIES],
    ['daemon/service/segment-copies.ts', 'this.#demandSize()\n', '\n', COPIES],
    ['daemon/service/segment-copies.ts', 'unparsed: true', 'unparsed: false', COPIES],
    [
      'daemon/operator-access.ts',
      "    this.#demand('remove', name)\n",
      '\n',
      'unit/daemon/access-check',
      'unit/daemon/policy-docs',
      'e2e/daemon-policy',
    ],
    [
      'daemon/operator-access.ts',
      "check.demand('operate', { service }, check.policyOf(service), peer)",
      '',
      'unit/daemon/access-check',
      'e2e/daemon-policy',
    ],
    ['daemon/policy/access-check.ts', 'if (match.gid !== null && match.gid !== gid) return false\n', ''],
    [
      'daemon/policy/access-check.ts',
      'return match.executable === null || (this.#program !== null && isProgram(this.#program, match.executable))',
      'return match.executable === null || this.#program === null || isProgram(this.#program, match.executable)',
    ],
    [
      'daemon/services.ts',
      'backoffMs(IN_BACKGROUND, waiting.runs)',
      'IN_BACKGROUND.firstMs',
      'unit/member/runtime',
      'unit/daemon/unserved-services',
    ],
    [
      'daemon/services.ts',
      'if (unserved && isDeepStrictEqual(waiting?.rule, rule)) return\n',
      '',
      'unit/member/runtime',
      'unit/daemon/unserved-services',
    ],
    [
      'daemon/services.ts',
      'for (const { timer } of this.#waiting.values()) clearTimeout(timer)',
      '',
      'unit/member/runtime',
      'unit/daemon/unserved-services',
    ],
    [
      'daemon/services.ts',
      'for (const service of this.#overLimit) if (!present.has(service)) this.#overLimit.delete(service)',
      '',
      'unit/member/runtime',
      'unit/daemon/state-sizes',
    ],
    ['daemon/daemon.ts', 'members * PER_MEMBER', 'members', 'unit/daemon/room'],
    [
      'holder/registry.ts',
      'drop(name: string): boolean {\n    this.wanted.delete(name)',
      'drop(name: string): boolean {',
      'unit/daemon/persisted-fds',
      'unit/daemon/handed-over',
    ],
    [
      'daemon/service/forwarded-writes.ts',
      'if (underWay?.peer === peer) this.#settle(written',
      'if (underWay) this.#settle(written',
      ...WRITES,
    ],
    [
      'daemon/service/forwarded-writes.ts',
      'if (this.#authors.size >= MOST_AUTHORS) {',
      'if (this.#authors.size > MOST_AUTHORS) {',
      ...WRITES,
    ],
    [
      'daemon/service/forwarded-writes.ts',
      'if (written.outcome === Outcome.AGAIN) author.mustReconnect = true',
      '',
      ...WRITES,
    ],
    [
      'daemon/service/recovery.ts',
      'this.#limit = afterReading(UNSEEN_MS, () => this.#giveUpUnseen())',
      'this.#limit = afterReading(UNSEEN_MS, () => {})',
      'unit/daemon/recovery',
    ],
    [
      'daemon/service/recovery.ts',
      'for (const watch of this.#watches.splice(0)) watch.close()',
      '',
      'unit/daemon/recovery',
    ],
  ],
)
