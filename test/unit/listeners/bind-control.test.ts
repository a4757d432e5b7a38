import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { inspectOne } from '../../../src/kernel/index.js'
import { bindListener, formatAddress, parseListenerSpec } from '../../../src/listeners/index.js'
import { acquireControl, closeControl } from '../../../src/os/control-path.js'

it('an address in use names the control socket of the process that holds it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-bind-'))
  const control = join(folder, 'upgrade.sock')
  const place = await acquireControl(control)
  const held = bindListener(parseListenerSpec('tcp://127.0.0.1:0'))
  try {
    expect(place.role).toBe('first')
    const taken = parseListenerSpec(formatAddress(inspectOne(held)))
    expect(() => bindListener(taken)).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_ADDRESS_IN_USE',
        message: expect.stringContaining(`whose control socket is ${control}`),
        details: expect.objectContaining({ pid: process.pid, control }),
      }),
    )
  } finally {
    held.close()
    if (place.role === 'first') {
      closeControl(place)
    }
    rmSync(folder, { recursive: true, force: true })
  }
})
