import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { edgeRoutes } from '../../bench/proxy/edge.mjs'
import { ProgressLine } from '../../src/cli/output.js'
import { copyState, withServing } from '../../src/cli/state-source.js'
import { STATE_COMMANDS } from '../../src/state/commands.js'
import { encodeImport } from '../../src/state/import.js'
import { PUT } from '../../src/state/records.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import type { Edge } from '../processes/edge.js'
import { loadOn } from '../processes/load.js'
import { present, releases } from '../processes/release.js'
import { RouteChanges } from '../processes/route-changes.js'
import { until } from '../processes/until.js'
import { behind } from './edge-behind.js'

const ROUTES = perLane(2_000, 10_000)

const options = (edge: Edge) => ({ control: edge.sandbox.control, service: '', timeout: 20_000 })

/** Keys and values of every section, as the present version reads a copy of the log; its digest must be the server's. */
async function copied(edge: Edge): Promise<Map<string, Map<string, Stored>>> {
  const { log, position } = await copyState(options(edge), new ProgressLine())
  try {
    expect(log.position).toEqual(position)
    return new Map(
      log.schemas().map(({ name }) => {
        const section = log.rawSection(name)
        const entries = [...section.keys()].map(key => {
          const { value, version } = section.get(key)!
          return [key, { value: Buffer.from(value).toString('hex'), version }] as const
        })
        return [name, new Map(entries)] as const
      }),
    )
  } finally {
    log.close()
  }
}

interface Stored {
  /** Hexadecimal. */
  value: string
  version: number
}

/** Field 40, bytes, and field 41, a number. */
const UNKNOWN = 'c20204deadbeefc8022a'

/** As a later version would write it: fields and a section that neither of the two versions knows. */
async function writeNewer(edge: Edge): Promise<Map<string, Stored>> {
  // Field 1, an upstream of the name "odd".
  const route = Buffer.from(`0a050a036f6464${UNKNOWN}`, 'hex')
  const keys = Array.from({ length: 50 }, (_, n) => `runtime:newer${n}.test/`)
  const changes = keys.map(key => ({ section: 'routes', op: PUT, key, value: route, version: 2 }))
  const later = { section: 'later', op: PUT, key: 'k', value: Buffer.from([1, 2, 3]), version: 7 }
  const schemas = [
    { name: 'routes', version: 2, minReader: 1, codec: 'protobuf', secret: false },
    { name: 'later', version: 7, minReader: 5, codec: 'msgpack', secret: false },
  ]
  const body = Buffer.concat([Buffer.from('{}\n'), encodeImport(schemas, [...changes, later])])
  await withServing(options(edge), ask => ask(STATE_COMMANDS.import, body))
  return new Map(keys.map(key => [key, { value: route.toString('hex'), version: 2 }]))
}

describe.each(releases())('the proxy of $name and the present one', previous => {
  const CHAIN = [present, previous, present, ...perLane([], [previous, present])]

  it.runIf(NIGHTLY)(
    `go up, down and up again under load, with ${ROUTES} routes and changes all the time`,
    async () => {
      // As a number: what it is by default is not the same everywhere, and a difference would be one more change.
      const edge = await behind({ limits: { connections: 5_000 } }, previous)
      const file = join(edge.sandbox.folder, 'routes.jsonl')
      writeFileSync(file, edgeRoutes(ROUTES))
      expect(await edge.routes('add', '--file', file)).toMatchObject({ code: 0, stdout: `${ROUTES} added\n` })
      const load = await loadOn(edge.url, {
        routes: ROUTES,
        workload: 'proxy',
        webSockets: 6,
        slow: 4,
        writes: 10,
        // The deadline of a machine that has other things to do; a lost answer never comes.
        deadlineMs: 30_000,
      })
      const start = (await edge.status()).state.sequence
      const changes = new RouteChanges(edge.sandbox.control, 'even')
      let newer = new Map<string, Stored>()
      // A version whose configuration has keys that the release lacks writes its settings once more: count that here.
      let others = 0

      const look = () =>
        changes.between(async () => {
          const all = await copied(edge)
          const routes = all.get('routes')!
          for (const key of changes.added) if (!changes.removed.has(key)) expect(routes.has(key)).toBe(true)
          for (const key of changes.removed) expect(routes.has(key)).toBe(false)
          expect(routes.size).toBe(1 + ROUTES + newer.size + changes.added.size - changes.removed.size)
          for (const [key, stored] of newer) expect(routes.get(key)).toEqual(stored)
          if (newer.size > 0)
            expect(all.get('later')).toEqual(new Map([['k', { value: '010203', version: 7 }]]))
          // Each change is one record, however often it was asked for.
          const { state } = await edge.status()
          expect(state.sequence - start).toBe(changes.acknowledged + others)
          return state
        })

      const goOn = async () => {
        const before = changes.acknowledged
        await until('changes go on', () => changes.acknowledged > before + 10)
      }
      await goOn()
      await look()
      for (const [step, version] of CHAIN.entries()) {
        const pid = await edge.next(version)
        expect(readFileSync(`/proc/${pid}/cmdline`, 'utf8')).toContain(version.cli.at(-1))
        await load.answeredBy(pid)
        // The setting drain.generations, which 0.4.0 lacks and keeps.
        if (step === 0) others++
        await goOn()
        const state = await look()
        // The state of both at the commit, as the one that took over read it; without equal digests there is none.
        expect(state.takenOver?.digest).toMatch(/^[0-9a-f]{64}$/)
        expect(state.takenOver!.sequence).toBeGreaterThan(start)
        if (step === 0) {
          newer = await changes.between(() => writeNewer(edge))
          others++
        }
        if (step === 2) {
          const key = 'runtime:newer9.test/'
          const replace = ['--host', 'newer9.test', '--upstream', 'even', '--replace']
          const replaced = await changes.between(async () => {
            expect(await edge.routes('add', ...replace)).toMatchObject({
              code: 0,
              stdout: '0 added, 1 replaced\n',
            })
            return (await copied(edge)).get('routes')!.get(key)!
          })
          others++
          expect(replaced.value).toMatch(new RegExp(`^0a060a046576656e.*${UNKNOWN}$`))
          newer.set(key, replaced)
        }
        const answeredBy = async (host: string, path: string) =>
          (await ask(`${edge.url}${path}`, { headers: { host } }).answer).headers['x-upstream']
        expect(await answeredBy('newer7.test', '/r/2')).toBe('odd')
        expect(await answeredBy('n0.test', '/r/1')).toBe('even')
        expect(await answeredBy('a.test', `/r/${ROUTES - 1}`)).toBe('odd')
      }
      await changes.stop()
      const report = await load.stop()
      expect(report.total.answered).toBeGreaterThan(CHAIN.length * 200)
      expect((await edge.status()).generation).toBe(CHAIN.length + 1)
    },
  )

  it.runIf(NIGHTLY)('give each other the connections that are open', async () => {
    const edge = await behind({}, present)
    const talk = await edge.talking()
    const kept = await edge.raw()
    let answers = 0
    const get = async (n: number) => {
      kept.send(`GET /r/${n} HTTP/1.1\r\nHost: a\r\n\r\n`)
      await kept.until(text => text.includes(`${n} item-${n}\n`))
      answers++
    }
    let serving = await edge.pid
    for (const [n, version] of [previous, present, previous, present].entries()) {
      await get(n)
      const old = serving
      serving = await edge.next(version)
      // Nothing is left in it: all have gone on in the other.
      await edge.ended(old)
      await talk.says(`in the ${n}th`)
    }
    await get(9)
    expect(answers).toBe(5)
    talk.socket.close(1000)
    kept.socket.end()
  })
})
