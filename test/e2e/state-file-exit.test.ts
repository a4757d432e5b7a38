import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'

const MEMBER = fileURLToPath(new URL('../fixtures/exit-member.mjs', import.meta.url))

/** Runs a service until it has ended. */
async function run(service: string, path: string, how: string) {
  const child = spawn(process.execPath, [MEMBER], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, FDB_EXIT: JSON.stringify({ service, path, how }) },
  })
  onTestFinished(() => void child.kill('SIGKILL'))
  let [said, errors] = ['', '']
  child.stdout.on('data', data => (said += data))
  child.stderr.on('data', data => (errors += data))
  const [code] = await once(child, 'close')
  return { code, said: said === '' ? null : JSON.parse(said), errors }
}

describe('a service that ends by itself, without close()', () => {
  it('finds everything that it acknowledged when it is started again', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-exit-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const path = join(folder, 'state')
    let before = 0
    for (const [how, code] of [
      ['exit', 3],
      ['throw', 1],
      ['reject', 1],
    ] as const) {
      const ended = await run('shop', path, how)
      expect(ended).toMatchObject({ code, said: { before } })
      before += 20
    }
    expect((await run('shop', path, 'exit')).said).toEqual({ before, early: 'ERR_FDB_FENCED' })
    const kept = readFileSync(path)
    const other = await run('bank', path, 'exit')
    expect([other.code, other.said]).toEqual([1, null])
    expect(other.errors).toMatch(/ERR_FDB_STATE_FILE/)
    expect(readFileSync(path)).toEqual(kept)
  })
})
