import { mkdirSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { ParsedFile } from '../../../src/proxy/names/hosts-file.js'
import { candidates, type DnsAnswer, NameServers, searchList } from '../../../src/proxy/names/name-servers.js'
import { KnownName, Names } from '../../../src/proxy/names/names.js'
import { NameServer, type Zone } from '../../processes/name-server.js'
import { until } from '../../processes/until.js'

function folder(): string {
  const made = mkdtempSync(join(tmpdir(), 'fdb-names-'))
  onTestFinished(() => rmSync(made, { recursive: true }))
  return made
}

interface World {
  readonly server: NameServer
  readonly names: Names
  readonly failures: string[]
  /** The addresses of a name in the order in which they are tried, or the code of the failure. */
  readonly find: (name: string) => Promise<readonly string[] | string>
  readonly writeHosts: (text: string) => void
}

async function world(
  zones: Record<string, Zone>,
  { resolv = '', hosts = '', timeout = 5_000 } = {},
): Promise<World> {
  const server = await NameServer.start(zones)
  const place = folder()
  const failures: string[] = []
  writeFileSync(join(place, 'resolv.conf'), resolv)
  const writeHosts = (text: string) => {
    writeFileSync(join(place, 'next'), text)
    renameSync(join(place, 'next'), join(place, 'hosts'))
  }
  writeHosts(hosts)
  const names = new Names({
    servers: [server.address],
    timeout,
    hosts: join(place, 'hosts'),
    resolvConf: join(place, 'resolv.conf'),
    onFailure: (name, code) => failures.push(`${name} ${code}`),
  })
  onTestFinished(() => names.close())
  const find: World['find'] = name =>
    new Promise(resolve =>
      names
        .hostOf(name)
        .lookup(name, { all: true }, (error, addresses) =>
          resolve(error?.code ?? (addresses as { address: string }[]).map(({ address }) => address)),
        ),
    )
  return { server, names, failures, find, writeHosts }
}

describe('the names of servers', () => {
  it('get addresses while others, however many, never get an answer', async () => {
    const silent = Object.fromEntries(
      Array.from({ length: 50 }, (_, i) => [`dead${i}.test`, 'silent' as const]),
    )
    const { server, find } = await world(
      { ...silent, 'good.test': { a: ['127.0.0.9'] } },
      { timeout: 60_000 },
    )
    let ended = 0
    const dead = Object.keys(silent).map(name => find(name).finally(() => ended++))
    await until('all are asked for', () => Object.keys(silent).every(name => server.timesAsked(name) > 0))
    expect(await find('good.test')).toEqual(['127.0.0.9'])
    expect(ended).toBe(0)
    expect(dead.length).toBe(50)
  })

  it('fail after the timeout, and tell the reason', async () => {
    const { find, failures } = await world({ 'dead.test': 'silent' }, { timeout: 50 })
    expect(await find('dead.test')).toBe('ETIMEOUT')
    expect(failures).toEqual(['dead.test ETIMEOUT'])
  })

  it('cause no failure if the proxy ends while they are looked up', async () => {
    const { names, find, failures, server } = await world({ 'dead.test': 'silent' })
    const found = find('dead.test')
    await until('it is asked for', () => server.timesAsked('dead.test') > 0)
    names.close()
    expect(await found).toBe('ECANCELLED')
    expect(failures).toEqual([])
  })

  it('cause one question, by however many requests, and another when their time is over', async () => {
    const { server, find } = await world({ 'a.test': { a: ['127.0.0.1'], ttl: 1 } })
    await Promise.all(Array.from({ length: 20 }, () => find('a.test')))
    expect(await find('a.test')).toEqual(['127.0.0.1'])
    expect(server.timesAsked('a.test')).toBe(1)
    server.zones.set('a.test', { a: ['127.0.0.2'], ttl: 60 })
    await until('the new address is used', async () => String(await find('a.test')) === '127.0.0.2')
    expect(server.timesAsked('a.test')).toBe(2)
  })

  it('cause no question each time if they do not exist', async () => {
    const { server, find, failures } = await world({})
    for (let n = 0; n < 3; n++) expect(await find('none.test')).toBe('ENOTFOUND')
    expect([server.timesAsked('none.test'), failures]).toEqual([1, ['none.test ENOTFOUND']])
  })

  it('keep their addresses while the name server fails, and lose them when it says that there are none', async () => {
    const { server, find, failures } = await world({ 'a.test': { a: ['127.0.0.1'], ttl: 0 } })
    expect(await find('a.test')).toEqual(['127.0.0.1'])
    server.zones.set('a.test', 'failing')
    await until('it was asked again', async () => {
      expect(await find('a.test')).toEqual(['127.0.0.1'])
      return failures.length > 0
    })
    expect(await find('a.test')).toEqual(['127.0.0.1'])
    server.zones.delete('a.test')
    await until('it is gone', async () => (await find('a.test')) === 'ENOTFOUND')
  })

  it('give their addresses in turn, IPv6 too, and those that failed last', async () => {
    const { names, find } = await world({ 'a.test': { a: ['127.0.0.1', '127.0.0.2'], aaaa: ['::1'] } })
    const firsts = [await find('a.test'), await find('a.test'), await find('a.test')].map(each => each[0])
    expect(firsts.sort()).toEqual(['127.0.0.1', '127.0.0.2', '::1'])
    names.hostOf('a.test').tried('127.0.0.1', false)
    for (let n = 0; n < 3; n++) expect((await find('a.test'))[2]).toBe('127.0.0.1')
    names.hostOf('a.test').tried('127.0.0.1', true)
    const again = [await find('a.test'), await find('a.test'), await find('a.test')].map(each => each[0])
    expect(again).toContain('127.0.0.1')
  })

  it('have the addresses of both kinds though the answer about one is late', async () => {
    let release = () => {}
    const held = new Promise<void>(resolve => (release = resolve))
    const { find } = await world({ 'a.test': { a: ['127.0.0.1'], aaaa: ['::1'], held } })
    expect(await find('a.test')).toEqual(['::1'])
    release()
    await until('it has both', async () => (await find('a.test')).length === 2)
  })

  it.each([
    ['take the late answer of the last lookup', false, ['127.0.0.1', '::1']],
    [
      'keep the addresses of a later lookup when the late answer of an earlier one comes',
      true,
      ['127.0.0.2', '::2'],
    ],
  ])('%s', async (_, isLater, addresses) => {
    let comes!: (answer: DnsAnswer) => void
    const late = new Promise<DnsAnswer>(resolve => {
      comes = resolve
    })
    const found = (addresses: string[]) => ({ kind: 'addresses' as const, addresses, ttlMs: 60_000 })
    const resolve = vi.spyOn(NameServers.prototype, 'resolve')
    onTestFinished(() => resolve.mockRestore())
    resolve.mockResolvedValueOnce({ ...found(['::1']), ...(isLater && { ttlMs: 0 }), missing: 4, late })
    resolve.mockResolvedValueOnce(found(['127.0.0.2', '::2']))
    const { find } = await world({})
    expect(await find('a.test')).toEqual(['::1'])
    if (isLater) await until('it has the new ones', async () => (await find('a.test')).length === 2)
    comes(found(['127.0.0.1', '::1']))
    await new Promise(setImmediate)
    expect([...(await find('a.test'))].sort()).toEqual(addresses)
  })

  it('keep the addresses of one kind while the name server tells of the other alone', async () => {
    const zone = { a: ['127.0.0.1'], aaaa: ['::1'], ttl: 1 }
    const { server, find } = await world({ 'a.test': zone })
    expect(await find('a.test')).toHaveLength(2)
    server.zones.set('a.test', { ...zone, aaaa: ['::2'], held: new Promise(() => {}) })
    await until('it has the new one', async () => (await find('a.test')).includes('::2'))
    expect([...(await find('a.test'))].sort()).toEqual(['127.0.0.1', '::2'])
  })

  it('of the hosts file need no name server, and follow the file', async () => {
    const hosts = '127.0.0.1 localhost # here\n127.0.0.2\tA.test b.test\n0:0::1 a.test\nnonsense c.test\n'
    const { server, names, find, writeHosts } = await world({}, { hosts })
    expect([...(await find('a.test'))].sort()).toEqual(['127.0.0.2', '::1'])
    expect(await find('b.test')).toEqual(['127.0.0.2'])
    expect(await find('localhost')).toEqual(['127.0.0.1'])
    expect(server.asked).toEqual([])
    expect(names.hostOf('b.test').current('127.0.0.2')).toBe(true)
    writeHosts('127.0.0.3 b.test\n')
    await until('the file is read', () => names.hostOf('b.test').current('127.0.0.3'))
    expect(names.hostOf('b.test').current('127.0.0.2')).toBe(false)
    expect([...(await find('localhost'))].sort()).toEqual(['127.0.0.1', '::1'])
  })

  it('of a file that cannot be read for a while stay as they were; those of a missing file are gone', () => {
    const path = join(folder(), 'hosts')
    writeFileSync(path, 'one')
    const file = new ParsedFile(path, text => text)
    expect(file.value(0)).toBe('one')
    rmSync(path)
    // Reading a folder fails, as reading a file does without a free descriptor.
    mkdirSync(path)
    expect(file.value(2_000)).toBe('one')
    rmSync(path, { recursive: true })
    expect(file.value(4_000)).toBe('')
    writeFileSync(path, 'two')
    expect(file.value(6_000)).toBe('two')
  })

  it('of a file are read when the first name is looked up', () => {
    const path = join(folder(), 'hosts')
    const read: string[] = []
    const parse = (text: string) => {
      read.push(text)
      return text
    }
    const file = new ParsedFile(path, parse)
    writeFileSync(path, 'one')
    expect(read).toEqual([])
    expect([file.value(0), file.value(500)]).toEqual(['one', 'one'])
    expect(read).toEqual(['one'])
    // The first read of this one fails.
    const unreadable = new ParsedFile(folder(), parse)
    expect([unreadable.value(0), unreadable.value(500)]).toEqual(['', ''])
    expect(read).toEqual(['one', ''])
  })

  it('may lie in the domains of resolv.conf', async () => {
    const { find, server } = await world(
      { 'app.two.test': { a: ['127.0.0.4'] }, 'x.y': { a: ['127.0.0.5'] } },
      { resolv: 'nameserver 127.0.0.1\nsearch one.test two.test\n' },
    )
    expect(await find('app')).toEqual(['127.0.0.4'])
    expect(server.asked).toEqual(['app.one.test', 'app.two.test'])
    expect(await find('x.y')).toEqual(['127.0.0.5'])
  })

  it('become unknown when other name servers are configured', async () => {
    const { names, find } = await world({ 'a.test': { a: ['127.0.0.1'] } })
    expect(await find('a.test')).toEqual(['127.0.0.1'])
    const other = await NameServer.start({ 'a.test': { a: ['127.0.0.7'] } })
    names.configure({ servers: [other.address], timeout: 5_000 })
    expect(await find('a.test')).toEqual(['127.0.0.7'])
  })
})

describe('the search list', () => {
  it('comes from resolv.conf', () => {
    expect(searchList('')).toEqual({ domains: [], dots: 1 })
    expect(searchList('domain a\nsearch B. c ; d\noptions timeout:1 ndots:5\n#search x')).toEqual({
      domains: ['b', 'c'],
      dots: 5,
    })
    const list = searchList('search d\noptions ndots:2')
    expect(candidates('a', list)).toEqual(['a.d', 'a'])
    expect(candidates('a.b', list)).toEqual(['a.b.d', 'a.b'])
    expect(candidates('a.b.c', list)).toEqual(['a.b.c', 'a.b.c.d'])
  })
})

describe('knowledge of a name', () => {
  const found = (addresses: string[], ttlMs: number) => ({ kind: 'addresses', addresses, ttlMs }) as const

  it('counts as long as the name server said, from 1 s to 1 h, and has 64 addresses at most', () => {
    const known = new KnownName()
    expect(known.isDue(0)).toBe(true)
    known.applyAnswer(found(['a', 'a', 'b'], 0), 0)
    expect([known.addresses, known.isDue(999), known.isDue(1_000)]).toEqual([['a', 'b'], false, true])
    known.applyAnswer(found(['a'], 10_000), 1_000)
    expect([known.isDue(10_999), known.isDue(11_000)]).toEqual([false, true])
    known.applyAnswer(
      found(
        Array.from({ length: 100 }, (_, i) => `${i}`),
        1e9,
      ),
      0,
    )
    expect([known.addresses.length, known.isDue(3_599_999), known.isDue(3_600_000)]).toEqual([
      64,
      false,
      true,
    ])
  })

  it('counts for 5 s where there is no address, and for 1 s where nobody answered', () => {
    const known = new KnownName()
    known.applyAnswer({ kind: 'nothing', code: 'ENODATA' }, 0)
    expect([known.code, known.isDue(4_999), known.isDue(5_000)]).toEqual(['ENODATA', false, true])
    known.applyAnswer({ kind: 'failed', code: 'ETIMEOUT' }, 0)
    expect([known.code, known.isDue(999), known.isDue(1_000)]).toEqual(['ETIMEOUT', false, true])
  })

  it('tries an address that failed as the others after 10 s', () => {
    const known = new KnownName()
    known.applyAnswer(found(['a', 'b'], 1e6), 0)
    known.recordAttempt('a', false, 0)
    expect([known.inTurn(9_999), known.inTurn(9_999)]).toEqual([
      ['b', 'a'],
      ['b', 'a'],
    ])
    expect([known.inTurn(10_000), known.inTurn(10_000)]).toEqual([
      ['a', 'b'],
      ['b', 'a'],
    ])
  })
})
