import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { checkMemoryRoom, memoryRoom } from '../../../src/os/memory-room.js'

const MIB = 1024 * 1024
const NO_SWAP = 'MemTotal:       1024 kB\nSwapTotal:             0 kB\n'

/** Files as a kernel has them below /proc and /sys/fs/cgroup. */
function machine(files: Record<string, string | number>) {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-room-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  for (const [name, contents] of Object.entries({ 'proc/meminfo': NO_SWAP, ...files })) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), `${contents}\n`)
  }
  return [join(folder, 'proc'), join(folder, 'sys')] as const
}

const second = {
  'proc/self/cgroup': '0::/pods/shop',
  'sys/pods/shop/memory.max': 100 * MIB,
  'sys/pods/shop/memory.current': 90 * MIB,
  'sys/pods/shop/memory.stat': `anon 7\nfile ${9 * MIB}\ninactive_file ${3 * MIB}\nactive_file ${2 * MIB}\nslab_reclaimable ${MIB}`,
}

it('counts what the kernel can free as room, in both versions of control groups', () => {
  expect(memoryRoom(...machine(second))).toEqual({
    bytes: 16 * MIB,
    limit: 100 * MIB,
    group: '/pods/shop',
  })
  const first = {
    'proc/self/cgroup': '9:name=systemd:/x\n4:cpu,memory:/shop\n0::/',
    'sys/memory/shop/memory.limit_in_bytes': 100 * MIB,
    'sys/memory/shop/memory.usage_in_bytes': 90 * MIB,
    'sys/memory/shop/memory.stat': `inactive_file 7\ntotal_inactive_file ${3 * MIB}\ntotal_active_file ${2 * MIB}`,
    'sys/memory/memory.limit_in_bytes': '9223372036854771712',
    'sys/memory/memory.usage_in_bytes': 900 * MIB,
  }
  expect(memoryRoom(...machine(first))).toEqual({ bytes: 15 * MIB, limit: 100 * MIB, group: '/shop' })
})

it('asks the groups above too, of which any may have the least room', () => {
  const above = { 'sys/pods/memory.max': 50 * MIB, 'sys/pods/memory.current': 45 * MIB }
  expect(memoryRoom(...machine({ ...second, ...above }))).toEqual({
    bytes: 5 * MIB,
    limit: 50 * MIB,
    group: '/pods',
  })
})

it.each([
  ['no group has a limit', { 'sys/pods/shop/memory.max': 'max' }],
  ['the kernel can swap', { 'proc/meminfo': 'SwapTotal:       4096 kB' }],
  ['the group is not below the mount', { 'proc/self/cgroup': '0::/../../elsewhere' }],
  ['nothing can be read', { 'proc/self/cgroup': '', 'proc/meminfo': '' }],
])('starts a version where %s', (_, files) => {
  expect(() => checkMemoryRoom('/usr/bin/node', ...machine({ ...second, ...files }))).not.toThrow()
})

it('refuses a version on Node for which there is no room, with the numbers, and no other program', () => {
  const there = machine(second)
  const refusal = expect.objectContaining({
    code: 'ERR_FDB_SPAWN',
    retryable: true,
    message: expect.stringMatching(
      /^cannot start the next version: .* \/pods\/shop \(100 MiB\) leaves 16 MiB, .* takes at least 22, .*: raise the limit \(memory\.max, /,
    ),
    details: expect.objectContaining({ needed: 22 * MIB, bytes: 16 * MIB }),
  })
  expect(() => checkMemoryRoom('/usr/bin/node', ...there)).toThrow(refusal)
  const noSwapHere = { 'proc/meminfo': 'SwapTotal: 4096 kB', 'sys/pods/shop/memory.swap.max': 0 }
  expect(() => checkMemoryRoom('/usr/bin/node', ...machine({ ...second, ...noSwapHere }))).toThrow(refusal)
  expect(() => checkMemoryRoom('/usr/bin/shop', ...there)).not.toThrow()
  const enough = machine({ ...second, 'sys/pods/shop/memory.current': 84 * MIB })
  expect(() => checkMemoryRoom('/usr/bin/node', ...enough)).not.toThrow()
})
