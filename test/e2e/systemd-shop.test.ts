import { describe, expect, it } from 'vitest'
import { noMachine, runMachine, type Said } from '../processes/machine.js'

const why = noMachine()
/** `npm run soak -- kills` does 20, under 1,000 connects a second. */
const KILLS = Number(process.env.FD_BROKER_KILLS ?? 3)
const RATE = Number(process.env.FD_BROKER_KILLS_RATE ?? 300)

describe('shop.service in docs/examples/systemd, as it is, with a systemd of its own', () => {
  it.skipIf(why !== null)(
    `follows a link to each release, rolls back, and dies ${KILLS} times: no connect is refused, every acknowledged change is there${why === null ? '' : `: not here, ${why}`}`,
    { timeout: 400_000 },
    async () => {
      const orders = JSON.stringify({ kills: KILLS, rate: RATE })
      const said = await runMachine('shop-driver.mjs', { 'orders.json': orders })
      const at = (step: string): Said => said.find(one => one.step === step) ?? { step: `no ${step}`, said }
      const running = { code: 0, ActiveState: 'active', SubState: 'running', refused: 0, failed: 0 }
      const [one, two] = ['/srv/shop/1', '/srv/shop/2']

      expect(at('start')).toMatchObject({ code: 0, StatusText: 'generation 1 serves', release: 'release 1' })
      expect(at('reload')).toMatchObject({ ...running, release: 'release 1', link: one })
      // The previous version is the main process until the probation ends.
      expect(at('reload').MainPID).toBe(at('start').MainPID)
      expect(at('release').MainPID).not.toBe(at('start').MainPID)
      // The folder that the link led to at the start of each is another by then.
      expect(at('release')).toMatchObject({ ...running, release: 'release 2', link: two })
      expect(at('broken')).toMatchObject({ ...running, code: 1, release: 'release 2', link: two })
      expect(at('rollback')).toMatchObject({ ...running, release: 'release 1', link: one })

      const mains = new Set([at('rollback').MainPID])
      for (let n = 1; n <= KILLS; n++) {
        const step = at(`kill ${n}`)
        expect(step).toMatchObject({ code: 0, ActiveState: 'active', refused: 0, release: 'release 1' })
        // Later changes are there too.
        expect(step.stored).toBeGreaterThanOrEqual(step.kept)
        mains.add(step.MainPID)
      }
      expect(mains.size).toBe(KILLS + 1)
      expect(at('restart')).toMatchObject({ code: 0, ActiveState: 'active', refused: 0 })
      const written = at('written')
      expect(written.answered).toBeGreaterThan(300)
      expect(written.acknowledged).toBeGreaterThan(KILLS)
      expect(written.stored).toBeGreaterThanOrEqual(written.acknowledged)
      expect(written.stored).toBeLessThanOrEqual(written.acknowledged + written.unanswered)
      expect(at('stop')).toMatchObject({ code: 0, ActiveState: 'inactive', MainPID: '0', refused: 0 })
      expect(at('end').journal).not.toContain('not our child')
    },
  )
})
