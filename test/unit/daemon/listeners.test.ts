import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { serveDaemon } from '../../../src/daemon/daemon.js'
import { join, type Member } from '../../../src/index.js'
import { until } from '../../processes/until.js'

const TIMES = { probation: 50, heartbeat: 20 }

for (const hosting of ['embedded', 'daemon'] as const) {
  describe(`listeners of a service (${hosting})`, () => {
    it('go to the next version where it asks for them, and end with the old one where it does not', async () => {
      const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-names-'))
      onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
      const control = joinPath(folder, 'control.sock')
      if (hosting === 'daemon') {
        const daemon = await serveDaemon({ control, upgrade: TIMES })
        onTestFinished(() => daemon.close())
      }
      const next = async (): Promise<Member> => {
        const options = { service: 'shop', control, hosting, upgrade: TIMES, drain: { timeout: 0 } }
        const member = await join(options)
        onTestFinished(() => member.close({ timeout: 0 }))
        return member
      }
      const path = joinPath(folder, 'old.sock')
      const first = await next()
      const web = await first.listen('web', 'tcp://127.0.0.1:0')
      await first.listen('old', `unix:${path}`)
      await first.ready({ unserved: true })
      const second = await next()
      const again = await second.listen('web', 'tcp://127.0.0.1:0')
      expect([again.adopted, again.address]).toEqual([true, web.address])
      await second.ready({ unserved: true })
      expect(existsSync(path)).toBe(true)
      expect(await first.retired).toBe('replaced')
      await until('nobody needs the path any more', () => !existsSync(path))
      const third = await next()
      const [still, anew] = [
        await third.listen('web', 'tcp://127.0.0.1:0'),
        await third.listen('old', `unix:${path}`),
      ]
      expect([still.adopted, still.address, anew.adopted]).toEqual([true, web.address, false])
    })
  })
}
