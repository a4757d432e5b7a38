// @ts-check
// A part of one processor for one process, by the kernel's bandwidth control (cgroup, version 1 or 2; needs root).
import { existsSync, mkdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const PERIOD_US = 10_000
const V1 = ['/sys/fs/cgroup/cpu', '/sys/fs/cgroup/cpu,cpuacct']
const V2 = ['/sys/fs/cgroup', '/sys/fs/cgroup/unified']

/**
 * @param {number} pid all its threads
 * @param {number} share of a processor
 * @returns {() => void} gives it back
 */
export function limitProcessor(pid, share) {
  const quota = Math.round(PERIOD_US * share)
  const first = V1.find(
    path => existsSync(join(path, 'cpu.cfs_quota_us')) || existsSync(join(path, 'cpu.shares')),
  )
  const root = first ?? V2.find(path => existsSync(join(path, 'cgroup.subtree_control')))
  if (root === undefined)
    throw new Error('no cgroup hierarchy is mounted: a share of a processor cannot be given')
  const group = join(root, `fd-broker-bench-${pid}`)
  if (first === undefined) writeFileSync(join(root, 'cgroup.subtree_control'), '+cpu')
  mkdirSync(group)
  if (first === undefined) writeFileSync(join(group, 'cpu.max'), `${quota} ${PERIOD_US}`)
  else {
    writeFileSync(join(group, 'cpu.cfs_period_us'), String(PERIOD_US))
    writeFileSync(join(group, 'cpu.cfs_quota_us'), String(quota))
  }
  writeFileSync(join(group, 'cgroup.procs'), String(pid))
  return () => {
    if (existsSync(`/proc/${pid}`)) writeFileSync(join(root, 'cgroup.procs'), String(pid))
    rmdirSync(group)
  }
}
