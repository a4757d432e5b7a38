import { expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { DescriptorAccess } from '../../../src/daemon/operator-access.js'
import { AccessCheck } from '../../../src/daemon/policy/access-check.js'
import { OWNERS_ONLY } from '../../../src/daemon/policy/policy.js'
import { parsePolicy } from '../../../src/daemon/policy/schema.js'
import { DescriptorStore } from '../../../src/daemon/service/descriptor-store.js'
import { UserQuotas } from '../../../src/daemon/user-quotas.js'
import { Registry } from '../../../src/holder/registry.js'
import { memoryFile, type OwnedFd } from '../../../src/kernel/index.js'
import { GROUP_LISTENER } from '../../../src/operator/service-commands.js'
import { ownPidfd } from '../../../src/os/liveness.js'

it('a pidfd that comes with the question for a listener of workers is closed, whether there is one or not', () => {
  const store = new DescriptorStore(new Registry())
  onTestFinished(() => store[Symbol.dispose]())
  const there = `${GROUP_LISTENER}there`
  const listener = (key: string): OwnedFd | null => (key === there ? memoryFile(key, 'a memory file') : null)
  const accessCheck = new AccessCheck(OWNERS_ONLY, SILENT)
  const checks = { store, accessCheck, quotas: new UserQuotas(1_024), logger: SILENT }
  const uid = process.geteuid?.() ?? 0
  const peer = { pid: process.pid, uid, gid: uid, pidfd: null }
  const overseen = new DescriptorAccess({ ...checks, workerListener: listener }, peer)
  const ask = (name: string) => {
    const claimant = ownPidfd()!
    try {
      overseen.claim({ name, by: { pid: 7, uid: 0 }, shared: true, claimant }).fd.close()
      return ['given', claimant.closed]
    } catch {
      return ['refused', claimant.closed]
    }
  }
  expect([ask(there), ask(`${GROUP_LISTENER}gone`)]).toEqual([
    ['given', true],
    ['refused', true],
  ])
})

it('another user that has all descriptors that it may have can still replace one of its own', () => {
  const registry = new Registry()
  const store = new DescriptorStore(registry)
  onTestFinished(() => {
    store[Symbol.dispose]()
    registry.close()
  })
  const accessCheck = new AccessCheck(parsePolicy('default: { put: [anyone] }', 'daemon.yaml'), SILENT)
  const checks = { store, accessCheck, quotas: new UserQuotas(64), logger: SILENT, workerListener: null }
  const by = { pid: 7, uid: 12_001 }
  const access = new DescriptorAccess(checks, { ...by, gid: 12_001, pidfd: null })
  const put = (name: string, replace = false) => {
    const fd = memoryFile(name, 'a memory file')
    try {
      access.put({ name: `shop/${name}`, fd, lifetime: null, ms: null, replace, by })
      return 'put'
    } catch (error) {
      return (error as { code: string }).code
    }
  }
  expect(['a', 'b', 'c'].map(name => put(name))).toEqual(['put', 'put', 'ERR_FDB_SHARE'])
  expect([put('a', true), put('c', true)]).toEqual(['put', 'ERR_FDB_SHARE'])
})
