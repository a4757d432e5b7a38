import { type EventEmitter, once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { describe, expect, it, onTestFinished } from 'vitest'
import { serveDaemon } from '../../../src/daemon/daemon.js'
import {
  codec,
  defineSection,
  join,
  type Member,
  runInSlices,
  type SectionOptions,
  type StateDraft,
} from '../../../src/index.js'
import { OperatorClient } from '../../../src/operator.js'
import { TicketKeys } from '../../../src/tls/ticket-keys.js'
import { untyped } from '../../fixtures/untyped.js'

const ALONE = { service: 'shop', control: false } as const
const DAEMON = { service: 'shop', hosting: 'daemon' } as const

async function alone(): Promise<Member> {
  const member = await join(ALONE)
  onTestFinished(() => member.close({ timeout: 0 }))
  return member
}

function refused(text: string) {
  return { code: 'ERR_FDB_OPTION', message: expect.stringContaining(text) }
}

// As JavaScript may call it.
const anyJoin = join as (options?: unknown) => Promise<Member>

describe('arguments of a caller are checked at the call', () => {
  it.each([
    ['a text for the signals', { signals: 'SIGTERM' }, 'signals'],
    ['a signal that no system has', { signals: ['SIGHUP', 'SIGTREM'] }, 'signals[1]'],
    ['a signal that no process can handle', { signals: ['SIGKILL'] }, 'signals[0]'],
    ['no AbortSignal', { until: 5 }, 'until'],
  ])('stay() refuses %s', async (_, options, place) => {
    const member = await alone()
    const before = process.eventNames()
    await expect(member.stay(untyped(options))).rejects.toMatchObject(refused(place))
    expect(process.eventNames()).toEqual(before)
  })

  it('shareTicketKeys() refuses a member that is none', () => {
    for (const member of [undefined, null, {}, 'shop'])
      expect(() => new TicketKeys(untyped(member))).toThrowError(
        expect.objectContaining(refused('the Member that join() resolves with')),
      )
  })

  it.each([
    ['nothing', undefined, 'the options of join() are undefined'],
    ['a text', 'shop', 'the options of join() are "shop"'],
    ['a folder for the pid file', { ...ALONE, pidFile: tmpdir() }, 'the path of a file, not of a folder'],
    ['a misspelt option', { ...ALONE, controll: '/x' }, 'did you mean "control"'],
    ['a misspelt limit of upgrades', { ...ALONE, upgrade: { probaton: 1 } }, 'did you mean "probation"'],
    ['a misspelt option of drains', { ...ALONE, drain: { timeOut: 1 } }, 'did you mean "timeout"'],
    ['a misspelt limit of the state', { ...ALONE, stateLimits: { keybytes: 1 } }, 'did you mean "keyBytes"'],
    [
      'a misspelt option of the file',
      { ...ALONE, stateFile: { path: '/x', synch: 1 } },
      'did you mean "sync"',
    ],
    ['a logger that is a function', { ...ALONE, logger: console.log }, 'it lacks debug, info, warn, error'],
    ['a service that follows itself', { ...DAEMON, follow: 'shop' }, 'option "follow" is "shop"'],
    ['a name to follow that is none', { ...DAEMON, follow: 7 }, 'option "follow" is 7'],
    ['one that follows without a daemon', { service: 'shop', follow: 'a' }, 'option "hosting" is undefined'],
    ['one that follows and keeps a file', { ...DAEMON, follow: 'a', stateFile: '/x' }, 'option "stateFile"'],
    ['a health that is no function', { ...ALONE, health: true }, 'option "health" is true'],
    ['a health that is asynchronous', { ...ALONE, health: async () => true }, 'a function that is not async'],
    ['a signal that is none', { ...ALONE, signal: 'SIGTERM' }, 'option "signal" is "SIGTERM"'],
  ])('join(): %s', async (_what, options, text) => {
    await expect(anyJoin(options)).rejects.toMatchObject(refused(text))
  })

  it('console is a logger', async () => {
    const member = await join({ ...ALONE, logger: console })
    await member.close()
  })

  it('methods of a member', async () => {
    const member = await alone()
    // biome-ignore lint/suspicious/noExplicitAny: as JavaScript may call it
    const any = member as any
    await expect(any.ready({ check: [] })).rejects.toMatchObject(refused('did you mean "checks"'))
    await expect(any.ready({ checks: () => {} })).rejects.toMatchObject(refused('a list of functions'))
    await expect(any.ready(5_000)).rejects.toMatchObject(refused('the options of ready() are 5000'))
    await expect(any.close({ timeoutMs: 1 })).rejects.toMatchObject(refused('no option "timeoutMs"'))
    await expect(any.close(1)).rejects.toMatchObject(refused('the options of close()'))
    await expect(any.upgrade({ arguments: [] })).rejects.toMatchObject(refused('no option "arguments"'))
    for (const argv of [[], 'node', [1]])
      await expect(any.upgrade({ argv })).rejects.toMatchObject(refused('a command as a list of texts'))
    expect(() => any.command('x', 'not a function')).toThrow(expect.objectContaining(refused('handler')))
    expect(member.phase).toBe('joining')
    await member.ready()
  })

  it('functions and schemas of the state', async () => {
    const member = await alone()
    // biome-ignore lint/suspicious/noExplicitAny: as JavaScript may call it
    const [any, define] = [member as any, defineSection as any]
    const section = any.section('s', defineSection({ version: 1, codec: codec.json() }))
    await member.ready()
    await expect(section.update('a')).rejects.toMatchObject(refused('option "change" is undefined'))
    await expect(any.update(5)).rejects.toMatchObject(refused('option "change" is 5'))
    await expect(any.update((state: StateDraft) => state.put(any, 'a', 1))).rejects.toMatchObject(
      refused('the Section that section() returns'),
    )
    await expect(any.update((state: StateDraft) => state.get(any.named, 'a'))).rejects.toMatchObject(
      refused('option "section" is undefined'),
    )
    expect(() => section.onChange(5)).toThrow(expect.objectContaining(refused('option "listener" is 5')))
    expect(() => any.section('t', 5)).toThrow(expect.objectContaining(refused('the options of section()')))
    const wrong = (text: string) => ({ code: 'ERR_FDB_SCHEMA', message: expect.stringContaining(text) })
    expect(() => any.section('t', {})).toThrow(expect.objectContaining(wrong('schema version is undefined')))
    expect(() => define({ version: 1, codec: codec.json })).toThrow(expect.objectContaining(wrong('codec')))
    expect(() => define({ version: 1, codec: codec.json(), validate: 5 })).toThrow(
      expect.objectContaining(wrong('validate is number')),
    )
    expect(() => define({ version: 1, codec: codec.json(), cache: -1 })).toThrow(
      expect.objectContaining(refused('option "cache" is -1')),
    )
    await expect(section.bulk([{ key: 'a', value: 1, delete: true }])).rejects.toMatchObject({
      code: 'ERR_FDB_STATE_VALUE',
    })
    await expect(runInSlices(untyped<Generator>(5))).rejects.toMatchObject(refused('option "work" is 5'))
    expect(section.size).toBe(0)
  })

  it('a validate() that returns a promise refuses the value', async () => {
    const member = await alone()
    const json = codec.json<number>()
    const late = member.section(
      'late',
      defineSection<number>({
        version: 1,
        codec: json,
        validate: untyped(async () => {
          throw new Error('too late')
        }),
      }),
    )
    await member.ready()
    await expect(late.put('a', 1)).rejects.toMatchObject({
      code: 'ERR_FDB_SCHEMA',
      message: expect.stringContaining('validate() returned a promise'),
    })
    expect(late.has('a')).toBe(false)
  })

  it('the daemon, sections, and operators', async () => {
    await expect(serveDaemon(untyped({ controll: '/x' }))).rejects.toMatchObject(refused('"control"'))
    await expect(serveDaemon({ control: '/x', upgrade: { freeze: -1 } })).rejects.toMatchObject(
      refused('upgrade.freeze'),
    )
    expect(() =>
      defineSection(untyped<SectionOptions<unknown>>({ version: 1, codec: codec.json(), secrets: true })),
    ).toThrow(expect.objectContaining(refused('did you mean "secret"')))
    await expect(OperatorClient.connect('/x', untyped({ timeOut: 1 }))).rejects.toMatchObject(
      refused('did you mean "timeout"'),
    )
  })

  it('time limits of operators: none means "no limit"', async () => {
    const folder = mkdtempSync(`${tmpdir()}/fdb-arguments-`)
    const control = `${folder}/shop.sock`
    const member = await join({ service: 'shop', control })
    onTestFinished(async () => {
      await member.close({ timeout: 0 })
      rmSync(folder, { recursive: true })
    })
    await member.ready()
    using client = await OperatorClient.connect(control)
    for (const timeout of [0, -1, Number.NaN, untyped<number>('5s')]) {
      const wrong = refused('option "timeout" is')
      await expect(client.upgrade({ timeout })).rejects.toMatchObject(wrong)
      await expect(client.command('x', '', { timeout })).rejects.toMatchObject(wrong)
      await expect(client.status({ timeout })).rejects.toMatchObject(wrong)
      await expect(client.descriptors.claim('x', { timeout })).rejects.toMatchObject(wrong)
    }
    await expect(client.upgrade({ argv: [] })).rejects.toMatchObject(refused('a command as a list of texts'))
    await expect(client.command('x', untyped(undefined))).rejects.toMatchObject(refused('option "body"'))
    member.command(
      'count',
      untyped(() => 5),
    )
    await expect(client.command('count', '')).rejects.toMatchObject({
      message: expect.stringContaining('the handler of the command "count" returned 5'),
    })
  })
})

describe('facts of describe() that JSON cannot express', () => {
  const circle: Record<string, unknown> = {}
  circle.itself = circle
  it.each([
    ['a circle', circle, 'circular'],
    ['a bigint', { count: 5n }, 'BigInt'],
    ['a promise', Promise.resolve({ count: 5 }), 'promise'],
  ])('%s: the status names the mistake in their place', async (_what, facts, text) => {
    const member = await alone()
    await member.ready()
    member.describe(untyped(() => facts))
    const { details } = member.status()
    expect(details).toEqual({ error: expect.stringContaining(text) })
    expect(JSON.parse(JSON.stringify(member.status()))).toMatchObject({ details })
  })
})

describe('events of a member', () => {
  it('throw if misspelt, however a caller listens to them', async () => {
    const member = await alone()
    const wrong = expect.objectContaining({
      code: 'ERR_FDB_EVENT',
      message: expect.stringContaining('did you mean "retiring"'),
    })
    for (const method of ['on', 'once', 'addListener', 'prependListener', 'prependOnceListener'] as const)
      expect(() => (member as EventEmitter)[method]('retireing', () => {})).toThrow(wrong)
    await expect(once(member, 'retireing')).rejects.toEqual(wrong)
    expect((member as EventEmitter).eventNames()).toEqual(['newListener'])
    const served = once(member, 'serving')
    await member.ready()
    await served
  })
})
