import { describe, expect, it } from 'vitest'
import { closeAll, inspectOne } from '../../../src/kernel/index.js'
import { bindListener, formatAddress, parseListenerSpec } from '../../../src/listeners/index.js'
import { adoptListeners, listenersOf } from '../../../src/os/foreign-listeners.js'
import {
  missingRight,
  OtherProcess,
  type TraceAttempt,
  type TraceFacts,
} from '../../../src/os/other-process.js'

const PTRACE = 1n << 19n
const USER: TraceFacts = { uids: [1, 1, 1], gids: [1, 1, 1], permitted: 0n, effective: 0n, filtered: false }
const ROOT: TraceFacts = {
  uids: [0, 0, 0],
  gids: [0, 0, 0],
  permitted: PTRACE,
  effective: PTRACE,
  filtered: false,
}
const SAME: TraceAttempt = { pid: 7, own: USER, target: USER, fdOwner: 1, scope: null, code: 'EPERM' }

describe('the right to look into a process that is missing', () => {
  it.each<[right: string, facts: Partial<TraceAttempt>, why: RegExp]>([
    ['call', { code: 'ENOSYS' }, /Linux 5\.6/],
    ['user', { target: { ...USER, uids: [1, 2, 2] } }, /as uid 2, this one as uid 1/],
    ['user', { target: { ...USER, gids: [1, 1, 3] } }, /with gid 3, this one with gid 1/],
    ['capability', { target: { ...USER, permitted: 1n } }, /CAP_SYS_PTRACE/],
    ['dumpable', { fdOwner: 0 }, /is not dumpable/],
    ['yama', { scope: 1 }, /ptrace_scope=1 lets only its ancestors/],
    ['yama', { scope: 2 }, /ptrace_scope=2 lets only root/],
    ['yama', { scope: 3, own: ROOT }, /until the machine is rebooted/],
    ['filter', { own: { ...ROOT, filtered: true } }, /seccomp/],
    ['filter', { own: { ...USER, filtered: true } }, /seccomp/],
    ['policy', { own: ROOT, scope: 1 }, /AppArmor, SELinux/],
    ['policy', { target: null, fdOwner: null }, /AppArmor, SELinux/],
  ])('shows as %s where %o', (right, facts, why) => {
    const [found, text] = missingRight({ ...SAME, ...facts })
    expect([found, text]).toEqual([right, expect.stringMatching(why)])
  })
})

describe('the listeners of a process', () => {
  it('can be taken where one socket has the address, and not where several have', () => {
    using self = OtherProcess.of(process.pid)
    const free = bindListener(parseListenerSpec('tcp://127.0.0.1:0?reusePort'))
    const { port = 0 } = inspectOne(free)
    const spec = parseListenerSpec(`tcp://127.0.0.1:${port}`)
    const [adopted, ...others] = adoptListeners(self, [{ name: 'web', spec }])
    expect(others).toEqual([])
    expect(adopted).toMatchObject({ name: 'web', spec: { ...spec, reusePort: true } })
    expect(inspectOne(adopted!.fd).ino).toBe(inspectOne(free).ino)
    const second = bindListener(parseListenerSpec(`tcp://127.0.0.1:${port}?reusePort`))
    const wanted = [{ name: 'web', spec }]
    expect(() => adoptListeners(self, wanted)).toThrow(
      /has 2 sockets at tcp:\/\/127\.0\.0\.1:\d+ \(SO_REUSEPORT\)/,
    )
    expect(() => adoptListeners(self, wanted)).toThrow(expect.objectContaining({ code: 'ERR_FDB_ADOPT' }))
    closeAll([adopted!.fd, second, free])
    expect(() => adoptListeners(self, wanted)).toThrow(/does not listen at tcp:/)
    const left = listenersOf(self)
    expect(left.map(({ about }) => formatAddress(about))).not.toContain(`tcp://127.0.0.1:${port}`)
    closeAll(left.map(({ fd }) => fd))
  })
})
