import { describe, expect, it } from 'vitest'
import { noMachine, runMachine } from '../processes/machine.js'
import { blockOf } from './page.js'

const why = noMachine()
const FILES = ['server.mjs', 'shop.service', 'shop-sockets.service', 'shop-held.service']
/** Stands in for the reader's own. */
const DATABASE =
  'export const openDatabase = async () => ({ ping: async () => true, rows: async () => 42, close: async () => {} })\n'

describe('the units of docs/deploy.md, as they are, with a systemd of their own', () => {
  it.skipIf(why !== null)(
    `reload without a lost request, and without one while the daemon restarts${why === null ? '' : `: not here, ${why}`}`,
    async () => {
      const shown = Object.fromEntries(FILES.map(file => [file, blockOf('deploy.md', file)]))
      const said = await runMachine('systemd-deploy-driver.mjs', { ...shown, 'database.mjs': DATABASE })
      expect(said.filter(({ step }) => step === 'failed')).toEqual([])
      const acts = { 'reload shop.service': 3, 'restart shop-held.service': 3, 'reload shop-held.service': 1 }
      for (const [act, times] of Object.entries(acts)) {
        const text = expect.stringMatching(/^generation \d+, 42 rows$/)
        const once = { step: act, another: true, text }
        expect(said.filter(({ step }) => step === act)).toEqual(Array(times).fill(once))
        const load = said.find(({ step }) => step === `load of ${act}`)!
        expect(load).toMatchObject({ failed: 0 })
        // 20 before the first act and 20 after the last one: the driver waits for them.
        expect(load.answered).toBeGreaterThanOrEqual(40)
      }
    },
  )
})
