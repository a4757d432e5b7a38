import { room } from '../seed.js'

const MACHINE = ['property/supervisor-machine', 'unit/supervisor-parts']
const PARTS = ['unit/supervisor-parts', 'unit/supervisor-settings']

export const supervisor = room('supervisor', PARTS, [
  [
    'supervisor/timers.ts',
    'backoffMs({ firstMs: delay, longestMs: LONGEST_RESTART_MS }, failures)',
    'delay',
    ...PARTS,
  ],
  ['supervisor/timers.ts', '    this.#stop(name)\n    const timer', '    const timer', ...PARTS],
  ['supervisor/timers.ts', 'Math.max(0, until - now)', 'until', ...PARTS],
  [
    'supervisor/polling-probe.ts',
    'passed = why === null ? passed + 1 : 0',
    'passed = why === null ? passed + 1 : passed',
    'unit/supervisor-parts',
    'unit/probing',
  ],
  [
    'supervisor/probe.ts',
    'if (got === 0) this.settle()\n      else if',
    'if',
    'unit/supervisor-parts',
    'e2e/run-programs',
  ],
  ['supervisor/probe.ts', 'clearTimeout(this.#timer)', '', 'unit/supervisor-parts'],
  [
    'supervisor/children.ts',
    "if (this.#groups.delete(pid)) sent(-pid, 'SIGKILL')",
    '',
    'unit/supervisor-parts',
    'e2e/run',
  ],
  [
    'supervisor/children.ts',
    'status < 0 ? 128 - status : status',
    'status < 0 ? 128 + status : status',
    'unit/supervisor-parts',
    'e2e/run',
  ],
  ['supervisor/askers.ts', 'this.#waiting.delete(id)', '', ...PARTS],
  ['supervisor/machine.ts', "end(draft, before.id, before.sick ? 'failed' : 'replaced')", '', ...MACHINE],
  [
    'supervisor/machine.ts',
    "{ type: 'end', version: id, why }, { type: 'wait', timer: 'stop', version: id }",
    "{ type: 'end', version: id, why }",
    ...MACHINE,
  ],
  [
    'supervisor/machine.ts',
    "else end(draft, id, 'ending')\n    }\n  }\n  if (now)",
    "else if (phase === 'serving') end(draft, id, 'ending')\n    }\n  }\n  if (now)",
    ...MACHINE,
  ],
  ['supervisor/machine.ts', ' && of === null) draft.good', ') draft.good', ...MACHINE],
  ['supervisor/machine.ts', "if (why === 'cancelled') {", '{', ...MACHINE],
  [
    'supervisor/machine.ts',
    "if (now) for (const { id, phase } of draft.versions) if (phase === 'stopping') kill(draft, id)",
    '',
    ...MACHINE,
  ],
  [
    'supervisor/machine.ts',
    'draft.failures = 0\n  draft.change(id, { proved: true })',
    'draft.change(id, { proved: true })',
    ...MACHINE,
  ],
  [
    'supervisor/machine.ts',
    "draft.restart === 'on-failure' && code === 0",
    "draft.restart === 'on-failure'",
    ...MACHINE,
  ],
])
