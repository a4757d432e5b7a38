import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { present, releases, type Version } from '../processes/release.js'
import { Clients, type Item, Service } from '../processes/skew-service.js'
import { until } from '../processes/until.js'

const ALL = releases()

const CASES = ALL.flatMap((release): [string, string, Version, Version][] => [
  [release.name, present.name, release, present],
  ...perLane<[string, string, Version, Version][]>([], [[present.name, release.name, present, release]]),
])

describe.each(CASES)('a daemon of %s, beside %s', (_daemon, _other, first, second) => {
  it.runIf(NIGHTLY)(
    'takes members of the other version too, is replaced by the other, and nothing is lost',
    async () => {
      const service = await Service.open('daemon')
      let daemon = await service.daemon(first)
      const seed = Array.from({ length: 500 }, (_, n) => ({
        key: `${n}`,
        value: { name: `item ${n}`, cents: n + 1 },
      }))
      let serving = await service.next(first, 1)
      await service.ask('/items/bulk', 'PUT', seed)
      const start = (await service.status()).state.sequence
      const clients = new Clients(service, 4, { restMs: 1 })
      let others = 0

      const through = async (versions: readonly Version[]) => {
        for (const version of versions) {
          await clients.goOn()
          const old = serving
          serving = await service.next(version, version === present ? 2 : 1)
          await service.said(old, 'ended')
          expect((await service.status()).pid).toBe(serving)
          await clients.goOn()
          if (version !== present) continue
          const body = { tags: ['new'], origin: { country: 'fr' } }
          await service.ask(`/items/${others}`, 'PUT', body, `enrich ${others}`)
          others++
        }
      }
      await through(perLane([second, first], [second, first, second]))
      for (const version of perLane([second], [second, first])) {
        signalPid(daemon, 'SIGKILL')
        await until('the daemon ends', () => hasEnded(daemon))
        daemon = await service.daemon(version)
        await clients.goOn()
        await through(perLane([second], [first, second]))
      }
      await clients.stop()

      const items = await service.all<Item>('items')
      expect(Object.keys(items)).toHaveLength(500 + clients.there.size)
      for (const [key, cents] of clients.there) expect(items[key]).toMatchObject({ name: key, cents })
      for (const key of clients.gone) expect(items[key]).toBeUndefined()
      // One more: the newer release's ticket keys.
      await until('each change is one record', async () => {
        const { sequence } = (await service.status()).state
        return sequence - start === clients.changes + others + 1 + service.migrations
      })
      // As the newer schema reads them, whatever version serves last.
      await service.next(present, 2)
      // Until then it may answer, as its own schema reads them.
      await service.said(serving, 'ended')
      const last = await service.all<Item>('items')
      for (let n = 0; n < others; n++) {
        expect(last[`${n}`]).toMatchObject({ tags: ['new'], origin: { country: 'fr' } })
      }
    },
  )
})

it.runIf(NIGHTLY).each(ALL)(
  'gives a member of $name a new segment when the one it writes in has grown',
  async previous => {
    const service = await Service.open('daemon')
    await service.daemon(present)
    const old = await service.next(previous, 1)
    const { epoch } = await service.status()
    // One of an earlier release that writes more than 512 KiB a second may be amid a bulk, and is let come to its end.
    const clients = new Clients(service, 2, { restMs: 1 })
    const text = 'x'.repeat(1024 * 1024)
    for (let n = 0; n < 70; n++) await service.ask('/notes/large', 'PUT', { n, text })
    await until('it writes in a new one', async () => (await service.status()).epoch > epoch, 20_000)
    await clients.goOn()
    await service.next(present, 2)
    await service.said(old, 'ended')
    await clients.goOn()
    await service.next(previous, 1)
    await clients.stop()
    expect(Object.keys(await service.all('items'))).toHaveLength(clients.there.size)
    expect(await service.all('notes')).toEqual({ large: { n: 69, text } })
  },
)
