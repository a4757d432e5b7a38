import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it, onTestFinished } from 'vitest'
import { identify } from '../../../src/os/process-identity.js'
import { bundled } from '../../processes/bundled.js'
import { hiding } from '../../processes/namespace.js'

/** Returns the facts that a process has of another one whose folder in /proc is hidden, as with `hidepid=2` or `ProtectProc=invisible`. */
function known(pid: number, startTime: string): unknown {
  const { file, env } = bundled('hidden-process.ts')
  const [command = '', ...args] = [...hiding(pid), process.execPath, file, `${pid}`, startTime]
  return JSON.parse(execFileSync(command, args, { env, encoding: 'utf8' }))
}

describe('a process that /proc hides', () => {
  it('counts as alive while it lives', async () => {
    const child = spawn('sleep', ['100'], { stdio: 'ignore' })
    onTestFinished(() => void child.kill('SIGKILL'))
    await once(child, 'spawn')
    const { startTime = '' } = identify(child.pid!)
    expect(startTime).not.toBe('')
    expect(known(child.pid!, startTime)).toEqual({ known: false, alive: true, fate: 'alive' })
  })
})

describe('a process that has ended', () => {
  it('counts as dead', async () => {
    const child = spawn('true', { stdio: 'ignore' })
    await once(child, 'exit')
    expect(identify(child.pid!).startTime).toBeUndefined()
    const { file, env } = bundled('hidden-process.ts')
    const said = execFileSync(process.execPath, [file, `${child.pid}`, '1'], { env, encoding: 'utf8' })
    expect(JSON.parse(said)).toEqual({ known: false, alive: false, fate: 'dead' })
  })
})
