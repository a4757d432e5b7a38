import { room } from '../seed.js'

export const serviceManager = room(
  'service-manager',
  ['unit/os/notify-socket', 'unit/member/fd-store-mirror', 'e2e/systemd-notify'],
  [
    [
      'os/service-manager/notify-socket.ts',
      'if (this.#pending.length > MOST_PENDING) this.#pending.shift()?.fd?.close()',
      '',
    ],
    ['os/service-manager/notify-socket.ts', 'this.#pending.shift()?.fd?.close()', 'this.#pending.shift()'],
    [
      'os/service-manager/notify-socket.ts',
      '        this.#pending.shift()\n        fd?.close()',
      '        this.#pending.shift()',
    ],
    [
      'os/service-manager/notify-socket.ts',
      'this.#timer = setTimeout(() => this.#send(), NOTIFY_RETRY_MS).unref()',
      '',
    ],
    ['os/service-manager/notify-socket.ts', "return text.replace(/[\\r\\n]+/g, ' ')", 'return text'],
    ['os/service-manager/notify-socket.ts', 'for (const { fd } of this.#pending.splice(0)) fd?.close()', ''],
    ['os/service-manager/notify-socket.ts', 'closeAll(fds ?? [])', '', 'unit/versions/notify-probe'],
    ['os/service-manager/service-manager.ts', 'manager.watchdogMs / 2', 'manager.watchdogMs * 2'],
    ['os/service-manager/service-manager.ts', 'if (this.#healthy()) manager.lives()', 'manager.lives()'],
    [
      'os/service-manager/service-manager.ts',
      'this.#extension = setInterval(extend, EXTEND_AGAIN_MS).unref()',
      '',
    ],
    ['os/service-manager/service-manager.ts', '    clearInterval(this.#timer)\n', '\n'],
    ['os/service-manager/service-manager.ts', 'Math.floor(usec / 1000)', 'Math.floor(usec)'],
    ['os/service-manager/service-manager.ts', 'EXTEND_TIMEOUT_USEC: ms * 1000', 'EXTEND_TIMEOUT_USEC: ms'],
    [
      'os/service-manager/passed-sockets.ts',
      'LISTEN_PID !== String(process.pid) || ',
      '',
      'e2e/socket-activation',
      'unit/os/notify-socket',
      'unit/os/remainder',
    ],
    [
      'os/service-manager/passed-sockets.ts',
      '    closeAll(this.#adopted)\n',
      '',
      'e2e/adopt',
      'unit/os/notify-socket',
    ],
    [
      'os/service-manager/passed-sockets.ts',
      'if (whole.length <= MOST_NAME) this.#socket.send({ FDSTORE: 1',
      'if (whole.length <= 2 * MOST_NAME) this.#socket.send({ FDSTORE: 1',
      'unit/member/fd-store-mirror',
      'unit/os/notify-socket',
    ],
  ],
)
