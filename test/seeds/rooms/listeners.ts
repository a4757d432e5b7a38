import { room } from '../seed.js'

const OPTIONS = ['unit/listeners/options', 'unit/listeners/bind']

export const listeners = room(
  'listeners',
  ['unit/os/remainder', 'unit/listeners/bind', 'unit/listeners/spec', 'unit/run/kept-path'],
  [
    [
      'listeners/adjust.ts',
      'before?.backlog !== wanted.backlog',
      'before?.backlog === wanted.backlog',
      ...OPTIONS,
    ],
    ['listeners/adjust.ts', '(stat.mode & 0o777) !== mode', '(stat.mode & 0o700) !== mode', ...OPTIONS],
    [
      'listeners/adjust.ts',
      'if (namesSocket(fd, path) === false) {',
      'if (namesSocket(fd, path) === null) {',
      ...OPTIONS,
    ],
    ['listeners/occupant.ts', "(spec.kind === 'tcp' && !listens)", '!listens'],
    ['listeners/occupant.ts', 'return same.size > 0 ? same : overlapping', 'return same'],
    [
      'listeners/occupant.ts',
      'if (!file.endsWith(LOCK_SUFFIX)) continue',
      'if (file.endsWith(LOCK_SUFFIX)) continue',
    ],
    [
      'listeners/bind.ts',
      "setSocketOption(fd, 'reusePort', true)",
      "setSocketOption(fd, 'reusePort', false)",
      'unit/listeners/bind',
      'unit/workers/start',
      'e2e/workers',
    ],
    [
      'listeners/bind.ts',
      'bindOptions({ ...spec, reusePort: false })',
      'bindOptions(spec)',
      'unit/listeners/bind',
      'unit/workers/start',
      'e2e/workers',
    ],
    ['listeners/unix-path.ts', 'if (isBound(path)) return { occupant: null }', ''],
    [
      'listeners/unix-path.ts',
      '  } finally {\n    folder?.close()\n  }',
      '  } finally {\n  }',
      'native/remainder',
      'unit/listeners/bind',
      'unit/os/liveness',
    ],
    [
      'listeners/unix-path.ts',
      'moved.ino === before.ino && moved.dev === before.dev && moved.mtimeNs === before.mtimeNs',
      'true',
      'unit/listeners/replaced',
    ],
    ['listeners/unix-path.ts', 'if (!isOurs) linkSync(aside, path)', '', 'unit/listeners/replaced'],
    [
      'listeners/spec.ts',
      "const every = address === '::' && about.ipv6Only === false",
      "const every = address === '::'",
      'unit/project/named-files',
      'e2e/socket-activation',
      'unit/listeners/options',
    ],
    [
      'listeners/identity.ts',
      'expected.dev === got.dev && expected.ino === got.ino',
      'expected.ino === got.ino',
      'unit/listeners/inspect',
      'unit/wire/bundle',
      'unit/os/remainder',
    ],
    [
      'listeners/spec.ts',
      "checkInteger(input, 'mode', options.mode, 0, 0o777)",
      "checkInteger(input, 'mode', options.mode, 0, 777)",
    ],
    ['listeners/spec.ts', 'if (bytes > MAX_UNIX_NAME) {', 'if (path.length > MAX_UNIX_NAME) {'],
  ],
)
