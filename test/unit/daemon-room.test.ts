import { execFileSync } from 'node:child_process'
import { expect, it, onTestFinished } from 'vitest'
import { checkingRoom } from '../../src/daemon/daemon.js'
import { PersistedFds } from '../../src/daemon/persisted-fds.js'
import { Registry } from '../../src/holder/registry.js'
import { fdLimits } from '../../src/os/limits.js'

/** What is checked before a daemon takes over, where so many descriptors are left. */
function check(registry: Registry, left: number, expected = 0): void {
  const { checks = [] } = checkingRoom({ expected }, new PersistedFds(registry, new Set()))
  const { open, soft } = fdLimits()
  const limit = (to: number) => execFileSync('prlimit', ['--pid', `${process.pid}`, `--nofile=${to}:`])
  limit(open! + left)
  try {
    for (const one of checks) void (one as () => void)()
  } finally {
    limit(soft!)
  }
}

it('a daemon that takes over has room for four descriptors of each member that comes back', () => {
  const registry = new Registry()
  onTestFinished(() => registry.close())
  expect(() => check(registry, 30, 5)).toThrow(
    expect.objectContaining({
      code: 'ERR_FDB_NO_DESCRIPTORS',
      details: expect.objectContaining({ more: 36, members: 5 }),
    }),
  )
  expect(() => check(registry, 45, 5)).not.toThrow()
})
