import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, describe, expect, it } from 'vitest'
import { acquireControl, closeControl } from '../../../src/os/control-path.js'

const folders: string[] = []
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true })
})

function folder(mode: number): string {
  const made = mkdtempSync(join(tmpdir(), 'fdb-folder-'))
  chmodSync(made, mode)
  folders.push(made)
  return made
}

describe('the folder of a control socket', () => {
  it('must not be writable for others: the error has its mode and the remedy', async () => {
    const open = folder(0o770)
    await expect(acquireControl(join(open, 'x.sock'))).rejects.toMatchObject({
      code: 'ERR_FDB_CONTROL_PATH',
      message: expect.stringMatching(/0770.*0700/),
    })
  })

  it('may be a sticky one, where nobody can replace the files of others', async () => {
    const place = await acquireControl(join(folder(0o1777), 'x.sock'))
    expect(place.role).toBe('first')
    if (place.role !== 'first') return
    closeControl(place)
  })
})
