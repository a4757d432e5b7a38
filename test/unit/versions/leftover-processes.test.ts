import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { expect, it, onTestFinished } from 'vitest'
import { LeftoverProcesses } from '../../../src/versions/leftover-processes.js'
import { until } from '../../processes/until.js'
import { comesFromAnother } from '../../processes/upgrade-attempts.js'

/** A shell that starts `sleep` with this command, and prints its pid. */
async function shell(start: string, env: NodeJS.ProcessEnv = {}) {
  const child = spawn('sh', ['-c', `${start} & echo $!; wait`], {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...env },
  })
  const [line] = await once(createInterface(child.stdout!), 'line')
  const pid = Number(line)
  onTestFinished(() => {
    for (const each of [pid, child.pid!]) {
      try {
        process.kill(each, 'SIGKILL')
      } catch {}
    }
  })
  return { leader: child.pid!, pid }
}

const pidsOf = (members: LeftoverProcesses) => {
  using all = members
  return all.pids
}

it('finds the members of a session, without its leader’s parent', async () => {
  const { leader, pid } = await shell('sleep 60')
  expect(pidsOf(LeftoverProcesses.ofSession(leader)).toSorted()).toEqual([leader, pid].toSorted())
})

it('finds descendants in a group, and marked ones in other sessions', async () => {
  const mark = { name: 'FD_BROKER_TEST_MARK', value: `${process.pid}.1` }
  const { leader, pid } = await shell('sleep 60', { [mark.name]: mark.value })
  const away = await shell('exec setsid sleep 60', { [mark.name]: mark.value })
  expect(pidsOf(LeftoverProcesses.ofGroup(leader, null))).toEqual([pid])
  const found = pidsOf(LeftoverProcesses.ofGroup(leader, mark))
  expect(found.toSorted()).toEqual([pid, away.leader, away.pid].toSorted())
})

it('takes no process for a member that is no descendant, and none for an empty or foreign mark', async () => {
  const { leader } = await shell('sleep 60')
  for (const mark of [null, { name: '', value: '' }, { name: 'PATH', value: process.env.PATH! }]) {
    const found = pidsOf(LeftoverProcesses.ofGroup(leader + 1, mark))
    // This process and its parents have PATH too.
    for (const pid of [process.pid, process.ppid, 1]) expect(found).not.toContain(pid)
  }
})

it('finds no process that has got the leader’s pid later', async () => {
  const child = spawn('sh', ['-c', 'read go; exec setsid sleep 60'], { stdio: ['pipe', 'ignore', 'inherit'] })
  onTestFinished(() => void child.kill('SIGKILL'))
  await once(child, 'spawn')
  using left = LeftoverProcesses.ofSession(child.pid!)
  expect(left.hasEnded).toBe(true)
  child.stdin.write('\n')
  await until('it leads a session', () => {
    const stat = readFileSync(`/proc/${child.pid}/stat`, 'latin1')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[3]) === child.pid
  })
  expect(left.pids).toEqual([])
})

it('takes no process for a member of a group that was empty before, although a marked process lives', async () => {
  const mark = { name: 'FD_BROKER_TEST_MARK', value: `${process.pid}.2` }
  const marked = await shell('sleep 60', { [mark.name]: mark.value })
  // Later this pid leads a group, as if the kernel had used the pid of an ended leader again.
  const child = spawn('sh', ['-c', 'read go; exec setsid sh -c "sleep 60 & echo; wait"'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  onTestFinished(() => void process.kill(-child.pid!, 'SIGKILL'))
  await once(child, 'spawn')
  using left = LeftoverProcesses.ofGroup(child.pid!, mark)
  const before = left.pids.toSorted()
  expect(before).toContain(marked.pid)
  const started = once(createInterface(child.stdout!), 'line')
  child.stdin.write('\n')
  await started
  expect(left.pids.toSorted()).toEqual(before)
})

it('takes a descendant in a session and with an environment of its own, as under sudo, for one of the version', async () => {
  const { leader, pid } = await shell('exec setsid sleep 60')
  const another = await shell('sleep 60')
  expect(comesFromAnother(pid, leader, 'its words')).toBe(false)
  expect(comesFromAnother(another.pid, leader, 'its words')).toBe(true)
})
