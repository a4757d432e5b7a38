import { describe, expect, it, onTestFinished } from 'vitest'
import { LiveServers, type ServerRequest } from '../../../src/proxy/servers/live-servers.js'
import { SERVERS, serversSection } from '../../../src/proxy/servers/section.js'
import { Upstreams } from '../../../src/proxy/upstreams/upstreams.js'
import { config, LEAST } from '../../fixtures/proxy-config.js'
import { writingLog } from '../../fixtures/state-logs.js'

const [A, B, C] = ['http://a:1', 'http://b:2', 'http://c:3'] as const
const BOTH = `app: { servers: ["${A}", { address: "${B}", weight: 2 }] }`

function scene(text = BOTH) {
  const { log } = writingLog()
  const warnings: unknown[][] = []
  const logger = { debug() {}, info() {}, warn: (...line: unknown[]) => void warnings.push(line), error() {} }
  const upstreams = new Upstreams({ onOut() {}, onIn() {}, onHealth() {} })
  const configure = (text: string) => upstreams.configure(config(`${LEAST}upstreams: { ${text} }`).upstreams)
  configure(text)
  let changes = 0
  const section = log.section(SERVERS, serversSection)
  const servers = new LiveServers({ section, generation: 2, upstreams, logger, changed: () => changes++ })
  onTestFinished(() => {
    servers.stop()
    log.close()
  })
  const change = async (change: ServerRequest['change'], server: string, weight?: number) => {
    const { outcome, used } = await servers.changeServer({ change, upstream: 'app', server, weight })
    return `${outcome} ${used}`
  }
  /** The servers that get the next requests. */
  const picks = (count: number) =>
    Array.from({ length: count }, () => upstreams.get('app').forward.pick([])?.key ?? null)
  const list = () =>
    servers.list().map(({ server, origin, state, weight }) => [server, origin, state, weight])
  return { section, servers, upstreams, configure, change, picks, list, warnings, changes: () => changes }
}

describe('servers changed at run time', () => {
  it('get no requests while they are drained, even if all are', async () => {
    const { change, picks, list, changes } = scene()
    expect(await change('drain', A)).toBe('changed 1')
    expect(picks(3)).toEqual([B, B, B])
    expect(await change('drain', A)).toBe('unchanged 1')
    expect(await change('drain', B)).toBe('changed 0')
    expect(picks(1)).toEqual([null])
    expect(list()).toEqual([
      [A, 'file', 'drained', 1],
      [B, 'file', 'drained', 2],
    ])
    expect(await change('undrain', A)).toBe('changed 1')
    expect(await change('undrain', A)).toBe('unchanged 1')
    expect(picks(2)).toEqual([A, A])
    expect(changes()).toBe(3)
  })

  it('get requests by their weight, then by that of the file', async () => {
    const { change, picks, list } = scene()
    expect(picks(3).toSorted()).toEqual([A, B, B])
    expect(await change('weight', A, 3)).toBe('changed 2')
    expect(picks(5).toSorted()).toEqual([A, A, A, B, B])
    expect(await change('weight', A)).toBe('changed 2')
    expect(await change('weight', A)).toBe('unchanged 2')
    expect(picks(3).toSorted()).toEqual([A, B, B])
    expect(list()).toEqual([
      [A, 'file', 'up', 1],
      [B, 'file', 'up', 2],
    ])
  })

  it('come and go, but not those of the file', async () => {
    const { change, picks, list, upstreams } = scene()
    expect(await change('add', 'http://C:3/', 2)).toBe('changed 3')
    expect(picks(5).toSorted()).toEqual([A, B, B, C, C])
    expect(list().at(-1)).toEqual([C, 'runtime', 'up', 2])
    expect(upstreams.destination(C)?.key).toBe(C)
    await change('drain', C)
    expect(await change('remove', C)).toBe('changed 2')
    expect(list()).toHaveLength(2)
    expect(upstreams.destination(C)).toBeUndefined()
    for (const [kind, server, why] of [
      ['remove', A, /comes from the configuration file: drain it/],
      ['remove', C, /app has no server http:\/\/c:3/],
      ['undrain', C, /app has no server/],
      ['drain', C, /app has no server/],
      ['add', 'tcp://d:1', /do not go together/],
      ['add', 'd', /not an upstream address/],
    ] as const)
      await expect(change(kind, server)).rejects.toMatchObject({ code: 'ERR_FDB_SERVERS', message: why })
  })

  it('cannot be changed by what is no request', async () => {
    const { servers } = scene()
    const right = { change: 'weight', upstream: 'app', server: A, weight: 1 }
    for (const [wrong, why] of [
      [undefined, /no change/],
      [[], /no change/],
      [{ ...right, change: 'stop' }, /"stop" is no change/],
      [{ ...right, upstream: 1 }, /give an upstream/],
      [{ ...right, server: null }, /give an upstream and a server/],
      [{ ...right, weight: 0 }, /0 is no weight/],
      [{ ...right, weight: 1001 }, /1 to 1000/],
      [{ ...right, upstream: 'apt' }, /apt has no server/],
      [{ ...right, change: 'add', upstream: 'apt' }, /there is no upstream "apt"/],
    ] as const)
      await expect(servers.changeServer(wrong)).rejects.toMatchObject({
        code: 'ERR_FDB_SERVERS',
        message: why,
      })
  })

  it('become those of the file when the section is cleared', async () => {
    const { change, list, section } = scene()
    await change('drain', A)
    await change('add', C)
    await section.clear()
    expect(section.size).toBe(0)
    expect(list()).toEqual([
      [A, 'file', 'up', 1],
      [B, 'file', 'up', 2],
    ])
  })

  it('keep their changes although the file lacks them meanwhile', async () => {
    const { servers, change, picks, list, configure, warnings } = scene()
    await change('drain', A)
    await change('add', C)
    configure(`app: { servers: ["${B}"] }`)
    expect(list()).toEqual([
      [B, 'file', 'up', 1],
      [C, 'runtime', 'up', 1],
      [A, 'runtime', 'unused', 0],
    ])
    servers.report()
    expect(warnings).toMatchObject([
      [{ servers: [`app ${C}`], count: 1 }, /override the file/],
      [{ servers: [`app ${A}`], count: 1 }, /are not used/],
    ])
    configure(BOTH)
    expect(picks(3).toSorted()).toEqual([B, B, C])
    configure(`app: { servers: ["tcp://b:2"] }`)
    expect(list().map(([server, , state]) => [server, state])).toEqual([
      ['tcp://b:2', 'up'],
      [A, 'unused'],
      [C, 'unused'],
    ])
    expect(await change('undrain', A)).toBe('changed 1')
    expect(await change('remove', C)).toBe('changed 1')
    expect(list()).toHaveLength(1)
  })
})
