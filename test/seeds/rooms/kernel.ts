import { room } from '../seed.js'

const REMAINDER = 'unit/kernel/remainder'
const ASIDE = 'native/aside'
const POLLED = [REMAINDER, 'unit/relay/polled-stream', 'unit/relay/socket-stream']

export const kernel = room(
  'kernel',
  ['unit/kernel/owned-fd', 'unit/listeners/bind', 'unit/listeners/inspect'],
  [
    ['kernel/owned.ts', '--slot.sharers.count === 0', '--slot.sharers.count >= 0'],
    ['kernel/owned.ts', 'this.#slot.sharers ??= { count: 1,', 'this.#slot.sharers ??= { count: 0,'],
    [
      'kernel/owned.ts',
      'const raw = this.transfer()\n    native.release(raw)',
      'const raw = this.transfer()',
    ],
    [
      'kernel/owned.ts',
      'if (raw < 0 || !dropOwner(fd.#slot)) continue',
      'if (raw < 0) continue\n      dropOwner(fd.#slot)',
    ],
    ['kernel/owned.ts', 'for (const listener of listeners) listener(leak)', ''],
    ['kernel/owned.ts', 'if (last && foreign !== null) foreign.open--', '', ASIDE],
    [
      'kernel/owned.ts',
      'new OwnedFd(native.dup(this.raw), label, foreignOf(this.#slot))',
      'new OwnedFd(native.dup(this.raw), label, null)',
      ASIDE,
    ],
    ['kernel/polled-socket.ts', 'if (--this.#count === 0) this.#poll.stop()', '--this.#count', REMAINDER],
    ['kernel/polled-socket.ts', 'this.setEager(fd, 0)', '', ...POLLED],
    [
      'kernel/polled-socket.ts',
      'if (this.#watched !== 0) polledSet!.watch(fd, this.#watched, 0)',
      '',
      ...POLLED,
    ],
    [
      'kernel/polled-socket.ts',
      'if (this.#at < this.#end) setImmediate(() => this.#dispatchReady())',
      '',
      ...POLLED,
    ],
    ['kernel/polled-socket.ts', 'if (member.open)', 'if (member !== null)', ...POLLED],
    [
      'kernel/file.ts',
      'for (let left = ATTEMPTS - 1; ; left--)',
      'for (let left = 0; ; left--)',
      'unit/state/segment',
      'unit/member/seal-legacy',
      'native/memory',
    ],
    [
      'kernel/watch.ts',
      '    fd.closeAside()\n',
      '',
      'native/remainder',
      'unit/daemon/operator-access',
      'unit/daemon/descriptor-store',
      'unit/run/kept-listeners',
    ],
    [
      'kernel/child.ts',
      'return pidfd === null ? null : !hasEnded(pidfd)',
      'return pidfd === null ? null : hasEnded(pidfd)',
      REMAINDER,
    ],
    [
      'kernel/file.ts',
      'position + done)\n}\n\nexport function truncateNow',
      'position)\n}\n\nexport function truncateNow',
      REMAINDER,
    ],
  ],
)
