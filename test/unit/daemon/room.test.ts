import { execFileSync } from 'node:child_process'
import { expect, it, onTestFinished } from 'vitest'
import { checkingRoom } from '../../../src/daemon/daemon.js'
import { PersistedFds } from '../../../src/daemon/persisted-fds.js'
import { namedEntry } from '../../../src/holder/entry.js'
import { Registry } from '../../../src/holder/registry.js'
import { memoryFile } from '../../../src/kernel/index.js'
import { fdLimits } from '../../../src/os/limits.js'

/** The daemon's checks before it takes over, where so many descriptors are left. */
function check(registry: Registry, left: number, expected = 0): void {
  const { checks = [] } = checkingRoom({ expected }, new PersistedFds(registry))
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

it('and, for each of the members that come back in one turn, for what the one with the most brings', () => {
  const registry = new Registry()
  onTestFinished(() => registry.close())
  for (const item of ['listener/web', 'listener/admin', 'segment/1'])
    registry.put(namedEntry(`shop/${item}`, memoryFile('held', 'a memory file')))
  const more = (members: number) => members * 4 + Math.min(members, 16) * 3 + 16
  for (const members of [5, 20]) {
    expect(() => check(registry, more(members) - 1, members)).toThrow(
      expect.objectContaining({ details: expect.objectContaining({ more: more(members) }) }),
    )
    expect(() => check(registry, more(members) + 5, members)).not.toThrow(/cannot take over/)
  }
})
