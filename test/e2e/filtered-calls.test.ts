import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { Scene } from '../processes/scene.js'

const SOURCE = fileURLToPath(new URL('../fixtures/refuse-calls.c', import.meta.url))
const EPERM = '1'
/** pidfd_open has one number everywhere. */
const PIDFD_OPEN = '434'
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
})
