import { request } from 'node:http'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { present, releases, type Version } from '../processes/release.js'
import { Clients, type Item, Service } from '../processes/skew-service.js'
import { until } from '../processes/until.js'

const ITEMS = perLane(500, 2_000)

describe.each(releases())(
  'a service on $name and on the present version, with an older and a newer schema',
  previous => {
    it.runIf(NIGHTLY)(
      'goes up, down and up again while clients change its state: nothing is lost, nothing done twice',
      async () => {
        const service = await Service.open()
        const pids = [await service.next(previous, 1)]
        const seed = Array.from({ length: ITEMS }, (_, n) => ({
          key: `${n}`,
          value: { name: `item ${n}`, cents: n },
        }))
        await service.ask('/items/bulk', 'PUT', seed)
        await service.ask('/notes/anna', 'PUT', { list: [1, 'two', null], nested: { deep: true } })
        const start = (await service.status()).state.sequence
        const clients = new Clients(service, 6, { restMs: 1 })
        let others = 0
        let equal = 0

        /** Both sides had the same at the commit; the old one by its own word as it retires. */
        const change = async (version: Version, schema: number) => {
          await clients.goOn()
          const old = pids.at(-1)!
          pids.push(await service.next(version, schema))
          const { sequence, digest } = await service.said(old, 'retiring')
          const { state, pid } = await service.status()
          expect(pid).toBe(pids.at(-1))
          // As it retires it may have read the first words of the new one already.
          expect(sequence).toBeGreaterThanOrEqual(state.takenOver!.sequence)
          if (sequence === state.takenOver!.sequence) {
            expect(digest).toBe(state.takenOver!.digest)
            equal++
          }
          await clients.goOn()
        }

        await change(present, 2)
        for (let n = 0; n < 100; n++) {
          await service.ask(
            `/items/${n}`,
            'PUT',
            { tags: ['new', `${n}`], origin: { country: 'de' } },
            `enrich ${n}`,
          )
        }
        await service.ask('/audit/first', 'PUT', { by: 'the newer one' })
        // And its ticket keys, which it wrote as it began to serve.
        others += 102
        const unknown = async () =>
          (await service.status()).sections.filter(({ name }) => name === 'audit' || name === 'ticketKeys')
        const before = await unknown()
        expect(before).toMatchObject([
          { version: 4, entries: 1 },
          { version: 1, entries: 1 },
        ])

        await change(previous, 1)
        for (let n = 0; n < 50; n++)
          await service.ask(`/items/${n}`, 'PUT', { cents: 10_000 + n }, `touch ${n}`)
        await service.ask(`/items/${ITEMS - 1}`, 'PUT', { cents: 7 }, 'touch the last')
        others += 51
        expect(await unknown()).toEqual(before)
        expect((await service.all<Item>('items'))['3']).toEqual({ name: 'item 3', cents: 10_003 })
        // A secret of the newer one is secret to the older one, which does not know the section, and to the tools of both.
        for (const { cli } of [previous, present]) {
          const show = ['state', 'show', '--control', service.sandbox.control, '--section', 'ticketKeys']
          const { stdout } = await service.sandbox.runCommand([...cli, ...show])
          expect(JSON.parse(stdout)).toEqual({
            section: 'ticketKeys',
            key: 'default',
            version: 1,
            redacted: true,
            bytes: expect.any(Number),
          })
        }

        await change(present, 2)
        if (NIGHTLY) {
          await change(previous, 1)
          await change(present, 2)
        }
        expect(await unknown()).toEqual(before)
        await clients.stop()

        const items = await service.all<Item>('items')
        expect(Object.keys(items)).toHaveLength(ITEMS + clients.there.size)
        for (const [key, cents] of clients.there) expect(items[key]).toMatchObject({ name: key, cents })
        for (const key of clients.gone) expect(items[key]).toBeUndefined()
        for (let n = 0; n < ITEMS; n++) {
          const cents = n < 50 ? 10_000 + n : n === ITEMS - 1 ? 7 : n
          const added = n < 100 ? { tags: ['new', `${n}`], origin: { country: 'de' } } : { tags: ['old'] }
          expect(items[`${n}`]).toEqual({ name: `item ${n}`, cents, ...added })
        }
        expect(await service.all('notes')).toEqual({
          anna: { list: [1, 'two', null], nested: { deep: true } },
        })
        expect(await service.all('audit')).toEqual({ first: { by: 'the newer one' } })
        expect((await service.status()).generation).toBe(perLane(4, 6))
        expect(equal).toBeGreaterThan(perLane(0, 1))
        // Each change is one record, however often it was sent. A version that has just begun to serve may still write what it migrates.
        await until('each change is one record', async () => {
          const { sequence } = (await service.status()).state
          return sequence - start === clients.changes + others + service.migrations
        })
      },
    )

    it.runIf(NIGHTLY)(
      'refuses before the commit where the newer schema has a lowest reader, and the newer one serves on',
      async () => {
        const service = await Service.open()
        await service.next(previous, 1)
        await service.ask('/items/a', 'PUT', { name: 'a', cents: 1 })
        const newest = await service.next(present, 3)
        // Nothing was written with it yet: the way back is open.
        const back = await service.next(previous, 1)
        const again = await service.next(present, 3)
        expect(newest).not.toBe(again)
        // The newer one would make the changes of the older one, with the schema of the older.
        await service.said(back, 'ended')
        await service.ask('/items/b', 'PUT', { name: 'b', cents: 2 })
        for (const version of perLane([previous], [previous, present])) {
          const refused = await service.launch(version, 1)
          const { code, message } = await service.said(refused, 'failed')
          expect(code).toBe('ERR_FDB_SCHEMA')
          expect(message).toMatch(
            /^section "items" was written with schema version 3, which needs a reader of version 2 or newer; this process has version 1\. Run a release (with|that has) version 2 or newer/,
          )
          await until('the refused one ends', () => hasEnded(refused))
        }
        const { pid, lastFailure } = await service.status()
        expect(pid).toBe(again)
        expect(lastFailure).not.toBeNull()
        await service.next(present, 2)
        expect(await service.all('items')).toEqual({
          a: { name: 'a', cents: 1, tags: ['old'] },
          b: { name: 'b', cents: 2 },
        })
      },
    )

    it('has the successor make a change that comes late', async () => {
      const service = await Service.open()
      const old = await service.next(present, 1)
      const put = request(`${service.url}/items/late`, { method: 'PUT', agent: false })
      put.on('error', () => {})
      const answer = new Promise<number>(resolve =>
        put.on('response', response => resolve(response.resume().statusCode ?? 0)),
      )
      put.write('{"name": "late"')
      await until(
        'its handler has begun',
        // With the one that asks.
        async () => (await service.status()).listeners[0]?.connections === 2,
      )
      await service.next(previous, 1)
      await service.said(old, 'retiring')
      const begun = performance.now()
      put.end('}')
      expect(await answer).toBe(200)
      // A change without an answer waits for 10 s.
      expect(performance.now() - begun).toBeLessThan(5_000)
    })

    const pairs: [name: string, newer: Version, older: Version][] = [
      ['present', present, previous],
      [previous.name, previous, present],
    ]
    it.each(pairs.slice(0, perLane(1, 2)))(
      'refuses too where the newer schema is first written while it waits to take over (from %s)',
      async (_, newer, older) => {
        const service = await Service.open()
        await service.next(older, 1)
        await service.ask('/items/a', 'PUT', { name: 'a', cents: 1 })
        const serving = await service.next(newer, 3)
        const joining = await service.launch(older, 1, 'wait')
        await service.said(joining, 'waits for SIGUSR2')
        await service.ask('/items/b', 'PUT', { name: 'b', cents: 2 })
        signalPid(joining, 'SIGUSR2')
        const { code, message } = await service.said(joining, 'failed')
        expect({ code, message }).toMatchObject({
          code: 'ERR_FDB_SCHEMA',
          message: expect.stringMatching(
            /^section "items" was written with schema version 3, which needs a reader/,
          ),
        })
        await until('the refused one ends', () => hasEnded(joining))
        const { pid, role } = await service.status()
        expect({ pid, role }).toEqual({ pid: serving, role: 'serving' })
        await service.ask('/items/c', 'PUT', { name: 'c', cents: 3 })
        await service.next(older, 2)
        expect(Object.keys(await service.all('items')).sort()).toEqual(['a', 'b', 'c'])
      },
    )
  },
)
