import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { expect, it, onTestFinished, vi } from 'vitest'
import { LeftoverProcesses } from '../../../src/versions/leftover-processes.js'

/** The process whose facts cannot be read, as if no descriptor were free. */
const unreadable = vi.hoisted(() => ({ pid: 0 }))
type Look = (pid: number) => unknown
vi.mock('../../../src/os/main-process.js', async (original: () => Promise<{ statIfSeen: Look }>) => {
  const own = await original()
  const statIfSeen: Look = pid => (pid === unreadable.pid ? undefined : own.statIfSeen(pid))
  return { ...own, statIfSeen, processStat: (pid: number) => statIfSeen(pid) ?? null }
})

it.each(['session', 'group'])('finds a process of a %s later of which it could read nothing', async kind => {
  const child = spawn('sh', ['-c', 'sleep 60 & echo $!; wait'], {
    detached: true,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => void process.kill(-child.pid!, 'SIGKILL'))
  const [line] = await once(createInterface(child.stdout!), 'line')
  const pid = Number(line)
  unreadable.pid = pid
  using left =
    kind === 'session' ? LeftoverProcesses.ofSession(child.pid!) : LeftoverProcesses.ofGroup(child.pid!, null)
  expect(left.pids).not.toContain(pid)
  unreadable.pid = 0
  expect(left.pids).toContain(pid)
})
