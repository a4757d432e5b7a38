import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { hasEnded } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { CLI, Sandbox } from './cli-processes.js'

const MIB = 1024 * 1024
const [FOLDER, LIMIT, USED] = existsSync('/sys/fs/cgroup/memory')
  ? ['/sys/fs/cgroup/memory', 'memory.limit_in_bytes', 'memory.usage_in_bytes']
  : ['/sys/fs/cgroup', 'memory.max', 'memory.current']

/** A control group with this process in it, or null if this user, or this machine, may have none. */
function memoryGroup(pid: number): string | null {
  const group = join(FOLDER!, `fdb-room-${pid}`)
  try {
    mkdirSync(group)
    onTestFinished(() => rmdirSync(group))
    writeFileSync(join(group, 'cgroup.procs'), String(pid))
    return existsSync(join(group, USED!)) ? group : null
  } catch {
    return null
  }
}

it('an upgrade for which the memory limit has no room is refused, with the numbers, and the version that serves goes on', async context => {
  const edge = await Edge.prepare({ routes: [{ host: '*', respond: { body: 'served' } }] })
  const pid = await edge.next()
  // Before the group: it can be removed when its processes have ended.
  const ends = async () => {
    await edge.signal('SIGKILL', pid)
    await until('it has ended', () => hasEnded(pid))
  }
  const group = memoryGroup(pid)
  onTestFinished(ends)
  context.skip(group === null, 'no control group with a memory limit can be made')
  // The group does not count the memory that the process took before.
  const used = () => Number(readFileSync(join(group!, USED!), 'utf8'))
  writeFileSync(join(group!, LIMIT!), String(used() + 12 * MIB))
  const { code, stderr } = await edge.sandbox.run('upgrade', '--control', edge.sandbox.control)
  expect({ code, stderr }).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(
      /^ERR_FDB_SPAWN: cannot start the next version: the memory limit of control group \/fdb-room-/,
    ),
  })
  expect(await ask(edge.url).answer).toMatchObject({ body: 'served' })
  expect(await edge.pid).toBe(pid)
})

it('a process has its threads before it serves: an upgrade starts none, which a limit of processes would refuse', async () => {
  const edge = await Edge.prepare({ routes: [{ host: '*', respond: { body: 'served' } }] })
  const script = `
    const { readdirSync } = require('node:fs')
    const threads = () => readdirSync('/proc/self/task').length
    const { join } = require('fd-broker')
    const before = threads()
    join({ service: 'shop', control: process.argv[1] }).then(async member => {
      await member.ready()
      console.log(threads() - before)
      await member.close()
    })`
  const { stdout } = await edge.sandbox.runCommand([process.execPath, '-e', script, edge.sandbox.control])
  // libuv has four.
  expect(Number(stdout)).toBeGreaterThanOrEqual(4)
})

it.each([
  ['a daemon', ['serve'], []],
  ['fd-broker run', ['run', '--ready', 'delay:1ms'], ['--', 'sleep', '600']],
] as const)('%s has its threads too when its control socket answers', async (_what, options, program) => {
  const sandbox = Sandbox.open()
  const threads = (pid: number) => readdirSync(`/proc/${pid}/task`).length
  const idle = await sandbox.launch([process.execPath, '-e', 'console.log(); setInterval(() => {}, 600_000)'])
  await until('the idle process runs', () => readFileSync(sandbox.log, 'utf8') !== '')
  const { control } = sandbox
  const pid = await sandbox.launch([process.execPath, CLI, ...options, '--control', control, ...program])
  await until('it answers', async () => (await sandbox.run('status', '--control', control)).code === 0)
  expect(threads(pid) - threads(idle)).toBeGreaterThanOrEqual(4)
})
