import { execFile } from 'node:child_process'
import { chmodSync, chownSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { daemonStatus, startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const USER = 12_001
const FOREIGN_USER = 12_002
const isRoot = process.getuid?.() === 0

function as(uid: number): string[] {
  return ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups']
}

/** `fd-broker …` of a user. */
async function cli(uid: number, ...args: string[]): Promise<{ stdout: string; stderr: string }> {
  const [file = '', ...rest] = [...as(uid), process.execPath, CLI, ...args]
  return await promisify(execFile)(file, rest).catch(({ stdout, stderr }) => ({ stdout, stderr }))
}

/** A scene in a folder that everybody may enter, with a control path in a folder of this mode and owner. */
function openScene(mode: number, owner: number): { scene: Scene; control: string } {
  const scene = Scene.open({ hosting: 'daemon', listeners: [{ name: 'web', spec: 'tcp://127.0.0.1:0' }] })
  chmodSync(scene.folder, 0o777)
  const folder = join(scene.folder, 'shared')
  mkdirSync(folder)
  chmodSync(folder, mode)
  chownSync(folder, owner, owner)
  return { scene, control: join(folder, 'c.sock') }
}

describe.runIf(isRoot)('a server of another user at the control path', () => {
  it('gets neither the listeners of a member nor the orders of an operator', async () => {
    const { scene, control } = openScene(0o1777, 0)
    // One that admits everybody: what keeps others out is in its own hands.
    const NODE_OPTIONS = `--import=data:text/javascript,process.geteuid=()=>${USER}`
    const trap = await startDaemon(scene, { control }, { wrap: as(FOREIGN_USER), env: { NODE_OPTIONS } })
    chmodSync(control, 0o777)
    const member = await scene.start({ control }, { wrap: as(USER) })
    const refusal = {
      code: 'ERR_FDB_DENIED',
      message: expect.stringMatching(new RegExp(`process ${trap.pid},.*uid ${FOREIGN_USER}.* ${USER}`)),
    }
    expect(await member.failure()).toMatchObject(refusal)
    await member.end()
    expect(await cli(USER, 'status', '--control', control)).toMatchObject({
      stdout: '',
      stderr: expect.stringContaining(`ERR_FDB_DENIED: ${control}`),
    })
    // Root, too, is careful in a folder where everybody may put something.
    await expect(OperatorClient.connect(control)).rejects.toMatchObject(
      expect.objectContaining({ code: 'ERR_FDB_DENIED' }),
    )
  })
})

describe.runIf(isRoot)('an operator', () => {
  it('with the rights of root may ask the service of a user, in a folder of that user’s', async () => {
    const { scene, control } = openScene(0o700, USER)
    await startDaemon(scene, { control }, { wrap: as(USER) })
    expect((await daemonStatus(control)).hosting).toBe('daemon')
    expect(statSync(control).uid).toBe(USER)
    // As a member root would take listeners from a user.
    const member = await scene.start({ control })
    expect(await member.failure()).toMatchObject({
      code: expect.stringMatching(/^ERR_FDB_(DENIED|CONTROL_PATH)$/),
    })
  })
})

describe('a control path in a folder that others may write to', () => {
  it('serves neither members of a daemon nor operators', async () => {
    const { scene, control } = openScene(0o700, process.getuid!())
    await startDaemon(scene, { control })
    chmodSync(join(control, '..'), 0o777)
    const refusal = { code: 'ERR_FDB_CONTROL_PATH', message: expect.stringMatching(/0777.*0700/) }
    const member = await scene.start({ control })
    expect(await member.failure()).toMatchObject(refusal)
    await expect(OperatorClient.connect(control)).rejects.toMatchObject(refusal)
    chmodSync(join(control, '..'), 0o700)
    expect((await daemonStatus(control)).services).toEqual([])
  })
})
