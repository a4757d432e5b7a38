import { room } from '../seed.js'

const MACHINE = ['property/version-machine', 'unit/run/parts']
const PARTS = ['unit/run/parts', 'unit/run/settings']

export const run = room('run', PARTS, [
  [
    'versions/timers.ts',
    'backoffMs({ firstMs: delay, longestMs: LONGEST_RESTART_MS }, failures)',
    'delay',
    ...PARTS,
  ],
  ['versions/timers.ts', '    this.#stop(name)\n    const limit', '    const limit', ...PARTS],
  ['versions/timers.ts', 'Math.max(0, until - now)', 'until', ...PARTS],
  [
    'probing/health-check.ts',
    'this.#passed = why === null ? this.#passed + 1 : 0',
    'this.#passed = why === null ? this.#passed + 1 : this.#passed',
    'unit/run/parts',
    'unit/probing/probing',
  ],
  [
    'versions/version-probe.ts',
    'if (got === 0) this.stop()\n      else if',
    'if',
    'unit/run/parts',
    'e2e/run-programs',
  ],
  ['versions/version-probe.ts', 'this.#limit?.clear()', '', 'unit/run/parts'],
  [
    'versions/child-processes.ts',
    "if (this.#groups.delete(pid)) trySignal(-pid, 'SIGKILL')",
    '',
    'unit/run/parts',
    'e2e/run',
  ],
  [
    'versions/child-processes.ts',
    'status < 0 ? 128 - status : status',
    'status < 0 ? 128 + status : status',
    'unit/run/parts',
    'e2e/run',
  ],
  ['run/upgrade-requests.ts', 'this.#waiting.delete(id)', '', ...PARTS],
  [
    'versions/version-machine.ts',
    "end(draft, before.id, before.sick ? 'failed' : 'replaced')",
    '',
    ...MACHINE,
  ],
  [
    'versions/version-machine.ts',
    "{ type: 'end', version: id, why }, { type: 'wait', timer: 'stop', version: id }",
    "{ type: 'end', version: id, why }",
    ...MACHINE,
  ],
  [
    'versions/version-machine.ts',
    "else end(draft, id, 'ending')\n    }\n  }\n  if (now)",
    "else if (phase === 'serving') end(draft, id, 'ending')\n    }\n  }\n  if (now)",
    ...MACHINE,
  ],
  ['versions/version-machine.ts', ' && of === null) draft.good', ') draft.good', ...MACHINE],
  ['versions/version-machine.ts', "if (why === 'cancelled') {", '{', ...MACHINE],
  [
    'versions/version-machine.ts',
    "if (now) for (const { id, phase } of draft.versions) if (phase === 'stopping') kill(draft, id)",
    '',
    ...MACHINE,
  ],
  [
    'versions/version-machine.ts',
    'draft.failures = 0\n  change(draft, id, { proved: true })',
    'change(draft, id, { proved: true })',
    ...MACHINE,
  ],
  [
    'versions/version-machine.ts',
    "draft.restart === 'on-failure' && code === 0",
    "draft.restart === 'on-failure'",
    ...MACHINE,
  ],
])
