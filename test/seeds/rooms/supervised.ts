import { room } from '../seed.js'

export const supervised = room(
  'supervised',
  ['unit/notify-socket', 'unit/safekeeping', 'e2e/systemd-notify'],
  [
    [
      'supervised/notify-socket.ts',
      'if (this.#waiting.length > MOST_WAITING) this.#waiting.shift()?.fd?.close()',
      '',
    ],
    ['supervised/notify-socket.ts', 'this.#waiting.shift()?.fd?.close()', 'this.#waiting.shift()'],
    [
      'supervised/notify-socket.ts',
      '        this.#waiting.shift()\n        fd?.close()',
      '        this.#waiting.shift()',
    ],
    ['supervised/notify-socket.ts', 'this.#timer = setTimeout(() => this.#send(), AGAIN_MS).unref()', ''],
    ['supervised/notify-socket.ts', "return text.replace(/[\\r\\n]+/g, ' ')", 'return text'],
    ['supervised/notify-socket.ts', 'for (const { fd } of this.#waiting.splice(0)) fd?.close()', ''],
    ['supervised/notify-receiver.ts', 'closeAll(given)', '', 'unit/notify-desk'],
    [
      'supervised/notify-receiver.ts',
      'this.#waiting = setTimeout(() => this.#poll?.start(READABLE), WAIT_MS).unref()',
      '',
      'unit/notify-desk',
    ],
    ['supervised/reminders.ts', 'manager.watchdogMs / 2', 'manager.watchdogMs * 2'],
    ['supervised/reminders.ts', 'if (this.#healthy()) manager.lives()', 'manager.lives()'],
    ['supervised/reminders.ts', 'this.#patience = setInterval(say, SAY_AGAIN_MS).unref()', ''],
    ['supervised/reminders.ts', '    clearInterval(this.#watchdog)\n', '\n'],
    ['supervised/service-manager.ts', 'Math.floor(usec / 1000)', 'Math.floor(usec)'],
    ['supervised/service-manager.ts', 'EXTEND_TIMEOUT_USEC: ms * 1000', 'EXTEND_TIMEOUT_USEC: ms'],
    [
      'supervised/passed-sockets.ts',
      'LISTEN_PID !== String(process.pid) || ',
      '',
      'e2e/socket-activation',
      'unit/notify-socket',
      'unit/process-remainder',
    ],
    ['supervised/passed-sockets.ts', '    closeAll(this.#adopted)\n', '', 'e2e/adopt', 'unit/notify-socket'],
    [
      'supervised/fd-store.ts',
      'if (whole.length <= MOST_NAME) this.#socket.say({ FDSTORE: 1',
      'if (whole.length <= 2 * MOST_NAME) this.#socket.say({ FDSTORE: 1',
      'unit/safekeeping',
      'unit/notify-socket',
      'e2e/fd-store',
    ],
  ],
)
