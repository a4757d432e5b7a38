import { room } from '../seed.js'

const CONTROL = ['unit/process-remainder', 'unit/process-control', 'unit/process-control-folder']

export const processRoom = room(
  'process',
  ['unit/process-remainder', 'unit/process-liveness'],
  [
    [
      'process/wakefulness.ts',
      'if (now - this.#tickedAt > 2 * everyMs + LATE_MS) this.#since = now',
      '',
      'unit/member-heartbeats',
      'unit/holder-probation',
    ],
    [
      'process/liveness.ts',
      '    poll.close()\n    own.close()\n  }\n  return',
      '    poll.close()\n  }\n  return',
      'native/remainder',
      'unit/fd-bind',
      'unit/process-liveness',
    ],
    ['process/liveness.ts', "if ((error as NativeError).code === 'EINVAL') throw error", ''],
    [
      'process/liveness.ts',
      'const soon = dead ? setImmediate(died) : undefined',
      'const soon = dead ? (died(), undefined) : undefined',
    ],
    ['process/liveness.ts', 'return own !== null && inspectOne(own).ino !== ino ? ino : null', 'return ino'],
    [
      'process/verified-kill.ts',
      'if (isAlive(identity)) kill(identity, opened)',
      'kill(identity, opened)',
      'unit/process-liveness',
      'unit/verified-kill',
      'unit/holder-peers',
    ],
    [
      'process/verified-kill.ts',
      "if (code !== 'ESRCH') throw",
      'throw',
      'unit/process-liveness',
      'unit/verified-kill',
      'unit/holder-peers',
    ],
    ['process/peer-fate.ts', 'graceMs = 100', 'graceMs = 0'],
    ['process/peer-fate.ts', '    clearTimeout(timer)\n      watch.close()', '    clearTimeout(timer)'],
    ['process/control-path.ts', 'now.ino !== entry.ino || now.dev !== entry.dev', 'false', ...CONTROL],
    ['process/control-path.ts', 'if (!tryLock(lock)) return false\n', '', ...CONTROL],
    [
      'process/process-identity.ts',
      "return fields[0] === 'Z' || fields[0] === 'X' ? null : fields[19]",
      'return fields[19]',
    ],
    [
      'process/process-identity.ts',
      'return one.pid === other.pid && one.startTime === other.startTime',
      'return one.pid === other.pid',
      'unit/process-liveness',
      'unit/roll-call',
      'unit/holder-peers',
      'unit/process-remainder',
    ],
    [
      'process/orphans.ts',
      'if (now - this.#seen.at < ADOPTED_MS) return true\n',
      '',
      'unit/process-liveness',
    ],
    ['process/pid-file.ts', 'rmSync(aside, { force: true })', '', 'unit/pid-file'],
    [
      'process/last-words.ts',
      "const text = readFileSync(path, 'utf8')\n    rmSync(path, { force: true })",
      "const text = readFileSync(path, 'utf8')",
      'unit/process-command-line',
      'unit/last-words',
    ],
  ],
)
