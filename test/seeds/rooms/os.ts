import { room } from '../seed.js'

const CONTROL = ['unit/os/remainder', 'unit/os/control-path', 'unit/os/control-folder']

export const os = room(
  'os',
  ['unit/os/remainder', 'unit/os/liveness'],
  [
    [
      'os/liveness.ts',
      'if (now - this.#tickedAt > 2 * everyMs + LATE_MS) this.#resumedAt = now',
      '',
      'unit/member/heartbeats',
      'unit/holder/probation',
    ],
    [
      'os/liveness.ts',
      '    poll.close()\n    own.close()\n  }\n  return',
      '    poll.close()\n  }\n  return',
      'native/remainder',
      'unit/listeners/bind',
      'unit/os/liveness',
    ],
    ['os/liveness.ts', "if ((error as NativeError).code === 'EINVAL') throw error", ''],
    [
      'os/liveness.ts',
      'const soon = dead ? setImmediate(died) : undefined',
      'const soon = dead ? (died(), undefined) : undefined',
    ],
    ['os/liveness.ts', 'return own !== null && inspectOne(own).ino !== ino ? ino : null', 'return ino'],
    [
      'os/process-identity.ts',
      'return isAlive(identity) ? send(opened, signal) : null',
      'return send(opened, signal)',
      'unit/os/liveness',
      'unit/os/verified-kill',
      'unit/holder/peers',
    ],
    [
      'os/process-identity.ts',
      "return code === 'ESRCH' ? null : ",
      'return ',
      'unit/os/liveness',
      'unit/os/verified-kill',
      'unit/holder/peers',
    ],
    ['os/process-identity.ts', 'graceMs = 100', 'graceMs = 0'],
    ['os/process-identity.ts', '    clearTimeout(timer)\n      watch.close()', '    clearTimeout(timer)'],
    ['os/control-path.ts', 'now.ino !== entry.ino || now.dev !== entry.dev', 'false', ...CONTROL],
    ['os/control-path.ts', 'if (!tryLock(lock)) return false\n', '', ...CONTROL],
    [
      'os/process-identity.ts',
      'return stat.hasEnded ? null : String(stat.startTicks)',
      'return String(stat.startTicks)',
    ],
    [
      'os/process-identity.ts',
      'return one.pid === other.pid && one.startTime === other.startTime',
      'return one.pid === other.pid',
      'unit/os/liveness',
      'unit/daemon/recovery',
      'unit/holder/peers',
      'unit/os/remainder',
    ],
    [
      'versions/child-processes.ts',
      'if (now - this.#seen.at < ADOPTED_MS) return true\n',
      '',
      'unit/os/liveness',
    ],
    ['os/pid-file.ts', 'rmSync(aside, { force: true })', '', 'unit/os/pid-file'],
    [
      'versions/exit-reason.ts',
      'if (text !== null) remove(path)',
      '',
      'unit/os/command-line',
      'unit/versions/last-words',
    ],
  ],
)
