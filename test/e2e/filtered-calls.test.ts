import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { NotifyRecorder } from '../processes/notify-socket.js'
import { Scene } from '../processes/scene.js'
import { SERVER, Supervised } from '../processes/supervised.js'

const SOURCE = fileURLToPath(new URL('../fixtures/refuse-calls.c', import.meta.url))
const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const EPERM = '1'
/** Numbers that are the same on every processor. */
const [PIDFD_SEND_SIGNAL, PIDFD_OPEN, CLOSE_RANGE] = ['424', '434', '436']
const [MEMFD_CREATE, INOTIFY_INIT1] = process.arch === 'arm64' ? ['279', '26'] : ['319', '294']

let folder: string
let filter: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'fdb-filter-'))
  filter = join(folder, 'refuse-calls')
  execFileSync('cc', ['-o', filter, SOURCE])
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe('behind a filter of system calls that answers EPERM', () => {
  it('to pidfd_open and inotify_init1: versions replace each other', async () => {
    const scene = Scene.open({ upgrade: { probation: 200, heartbeat: 50 } })
    const wrap = [filter, EPERM, `${PIDFD_OPEN},${INOTIFY_INIT1}`]
    const first = await scene.serve({}, { wrap })
    const second = await scene.serve({}, { wrap })
    await first.end()
    expect((await scene.status()).pid).toBe(second.pid)
  })

  it('to memfd_create: one line names it, and versions replace each other', async () => {
    const scene = Scene.open({ upgrade: { probation: 200, heartbeat: 50 } })
    const wrap = [filter, EPERM, MEMFD_CREATE!]
    const first = await scene.serve({}, { wrap })
    expect(first.output.split('memfd_create is missing or refused')).toHaveLength(2)
    const second = await scene.serve({}, { wrap })
    await first.end()
    expect((await scene.status()).pid).toBe(second.pid)
  })

  it('to memfd_create, and no file can be made in its place: the error names both', async () => {
    const scene = Scene.open()
    const env = { TMPDIR: '/proc' }
    const refused = await scene.start({}, { wrap: [filter, EPERM, MEMFD_CREATE!], env })
    expect(await refused.failure()).toMatchObject({
      code: 'ERR_FDB_NO_SEALS',
      message: expect.stringMatching(/^memfd_create .* \/proc \(E\w+\)/),
    })
  })

  it('to close_range: the main process of a unit starts its next version and answers', async () => {
    const options = { systemd: 'auto' } as const
    const scene = Scene.open({ options })
    const { env } = NotifyRecorder.open(scene.folder)
    const first = await scene.serve({ options }, { wrap: [filter, EPERM, CLOSE_RANGE], env })
    const { pid } = await first.order<{ pid: number }>('upgrade')
    expect((await scene.status()).pid).toBe(pid)
  })

  it('to close_range: the thread that starts processes keeps none of their descriptors, also those whose numbers the process does not use', () => {
    const script = `const fs = require('fs')
      const native = require('./build/Release/fd_broker.node')
      native.openStarter()
      const out = fs.openSync(process.argv[1], 'w')
      for (const number of [0, 1, 2]) fs.closeSync(number)
      native.spawn(Buffer.from('/bin/true\\0/\\0true\\0'), Buffer.from('A=b\\0'), -1, [out, out, out], 0, true)
      const isStarter = task => fs.readFileSync('/proc/self/task/' + task + '/comm', 'utf8') === 'fdb-start\\n'
      const starter = fs.readdirSync('/proc/self/task').find(isStarter)
      fs.writeSync(out, fs.readdirSync('/proc/self/task/' + starter + '/fd').join())`
    const seen = join(folder, 'descriptors')
    execFileSync(filter, [EPERM, CLOSE_RANGE!, process.execPath, '-e', script, seen], { cwd: ROOT })
    expect(readFileSync(seen, 'utf8')).toBe('0')
  })

  it.each([
    ['close_range', CLOSE_RANGE],
    ['pidfd_open and pidfd_send_signal', `${PIDFD_OPEN},${PIDFD_SEND_SIGNAL}`],
  ])(
    'to %s: if fd-broker run is killed, the processes of its program end too, and run can be started again',
    async (_, calls) => {
      const run = await Supervised.prepare()
      const wrap = [filter, EPERM, calls]
      for (let starts = 1; starts <= 2; starts++) {
        await run.launch(['--ready', 'fd'], ['sh', '-c', `sleep 60 & exec ${SERVER}`], {}, wrap)
        await run.logged('a version serves', ({ pid }) => pid === run.pid)
        const { pid } = await run.whoami()
        const helper = Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8'))
        run.signal('SIGKILL')
        await run.ended(pid)
        await run.ended(helper)
      }
    },
  )
})

it('below the permission model of Node the errors name the flags that are missing', () => {
  const index = fileURLToPath(new URL('../../dist/index.js', import.meta.url))
  const control = join(folder, 'service', 'control.sock')
  const script = `
    import(${JSON.stringify(index)})
      .then(({ join }) => join({ service: 'shop', control: ${JSON.stringify(control)} }))
      .then(member => member.ready().then(() => member.close()))
      .then(() => console.log('served'), ({ code, message }) => console.log(code, message))`
  const model = process.allowedNodeEnvironmentFlags.has('--permission')
    ? '--permission'
    : '--experimental-permission'
  const said = (...flags: string[]) =>
    execFileSync(process.execPath, [model, '--allow-fs-read=*', ...flags, '-e', script], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    })
  expect(said()).toMatch(/^ERR_FDB_ADDON .*--allow-addons/)
  expect(said('--allow-addons')).toMatch(/^ERR_FDB_CONTROL_PATH .*--allow-fs-write=\*/)
  expect(said('--allow-addons', '--allow-fs-write=*')).toBe('served\n')
})
