import session from 'express-session'
import Keyv from 'keyv'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { join } from '../../../src/index.js'
import { KeyvStore, sessionStore } from '../../../src/stores/index.js'
import { until } from '../../processes/until.js'

async function member() {
  const joined = await join({ service: 'shop', control: false })
  onTestFinished(() => joined.close({ timeout: 0 }))
  await joined.ready()
  return joined
}

const HOUR = 3_600_000

// biome-ignore lint/suspicious/noExplicitAny: methods of different callbacks.
function asked<T>(call: (callback: any) => void): Promise<T> {
  return new Promise((resolve, reject) =>
    call((error: unknown, value: T) => (error ? reject(error) : resolve(value))),
  )
}

function cookieFor(ms: number) {
  return { cookie: { originalMaxAge: ms, expires: new Date(Date.now() + ms), httpOnly: true, path: '/' } }
}

/** A session and a store, as `@fastify/session` declares them. */
interface FastifySession {
  readonly sessionId: string
  user?: string
}
// biome-ignore lint/suspicious/noExplicitAny: as there.
type FastifyError = any
interface FastifyStore {
  set(sessionId: string, session: FastifySession, callback: (error?: FastifyError) => void): void
  get(sessionId: string, callback: (error: FastifyError, session?: FastifySession | null) => void): void
  destroy(sessionId: string, callback: (error?: FastifyError) => void): void
}

describe('the session store', () => {
  it('has the types of the modules that take it, and options that may be undefined', async () => {
    const shop = await member()
    const fastify: FastifyStore = sessionStore()
    const express: session.Store = sessionStore(session, { member: shop, ttl: undefined, section: undefined })
    const keyv = new KeyvStore({ section: undefined, member: undefined })
    expect([typeof fastify.get, typeof express.get, typeof keyv.get]).toEqual(Array(3).fill('function'))
  })

  it('keeps what a request of a health check writes, until this version serves', async () => {
    const shop = await join({ service: 'shop', control: false })
    onTestFinished(() => shop.close({ timeout: 0 }))
    const store = sessionStore(null, { member: shop })
    const keyv = new KeyvStore({ member: shop })
    const check = async () => {
      await asked(done => store.set('a', { user: 'anna' }, done))
      await asked(done => store.touch('a', { user: 'anna' }, () => done(null)))
      await asked(done => store.destroy('b', done))
      await keyv.set('key', 1)
    }
    await shop.ready({ checks: [check] })
    const found = await until('the session is there', () =>
      asked<object | null>(done => store.get('a', done)),
    )
    expect(found).toMatchObject({ user: 'anna' })
  })

  it('works as a store of express-session', async () => {
    const store = sessionStore(session, { member: await member() })
    expect(store).toBeInstanceOf(session.Store)
    expect(store.listenerCount('disconnect')).toBe(0)
    const middleware = session({ secret: 's', resave: false, saveUninitialized: false, store })
    expect(typeof middleware).toBe('function')
    expect(store.listenerCount('disconnect')).toBe(1)
  })

  it('sets, gets, lists, counts and destroys sessions, as JSON', async () => {
    const shop = await member()
    const store = sessionStore(null, { member: shop })
    await asked(done => store.set('a', { ...cookieFor(HOUR), user: 'anna', at: new Date(0) }, done))
    await asked(done => store.set('b', { user: 'ben' }, done))
    expect(await asked(done => store.get('a', done))).toMatchObject({
      user: 'anna',
      at: '1970-01-01T00:00:00.000Z',
    })
    expect(Object.keys(await asked<object>(done => store.all(done))).sort()).toEqual(['a', 'b'])
    expect(await asked(done => store.length(done))).toBe(2)
    await asked(done => store.destroy('a', done))
    expect(await asked(done => store.get('a', done))).toBeNull()
    await asked(done => store.clear(done))
    expect(await asked(done => store.length(done))).toBe(0)
    expect(shop.section('sessions').secret).toBe(true)
  })

  it('ends a session with its cookie, or after ttl without one', async () => {
    const store = sessionStore(null, { member: await member(), ttl: 30 })
    await asked(done => store.set('a', cookieFor(30), done))
    await asked(done => store.set('b', {}, done))
    await asked(done => store.set('c', cookieFor(HOUR), done))
    await asked(done => store.set('d', cookieFor(-1), done))
    await until('two have ended', async () => (await asked(done => store.length(done))) === 1)
    expect(await asked(done => store.get('c', done))).not.toBeNull()
  })

  it('deletes expired sessions although another entry cannot be decoded, and says which', async () => {
    vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval'] })
    onTestFinished(() => void vi.useRealTimers())
    const warnings: unknown[] = []
    const logger = { ...SILENT, warn: (facts: unknown) => void warnings.push(facts) }
    const shop = await join({ service: 'shop', control: false, logger })
    onTestFinished(() => shop.close({ timeout: 0 }))
    await shop.ready()
    const section = shop.section('sessions')
    for (const key of ['a', 'z']) await section.put(key, Buffer.from('{'))
    const store = sessionStore(null, { member: shop, ttl: 30 })
    for (const key of ['b', 'c']) await asked(done => store.set(key, {}, done))
    expect([...section.keys()].sort()).toEqual(['a', 'b', 'c', 'z'])
    await until('they have ended', async () => (await asked(done => store.get('c', done))) === null)
    vi.advanceTimersByTime(60_000)
    await until('the expired ones are gone', () => [...section.keys()].sort().join() === 'a,z')
    vi.advanceTimersByTime(60_000)
    await until('both were named', () => warnings.length >= 2)
    expect(warnings).toMatchObject([
      { section: 'sessions', key: 'a' },
      { section: 'sessions', key: 'z' },
    ])
  })

  it('writes a touch that moves the end, and no other; makes no session that was destroyed', async () => {
    const shop = await member()
    const store = sessionStore(null, { member: shop })
    const section = shop.section('sessions')
    await asked(done => store.set('a', { ...cookieFor(HOUR), user: 'anna' }, done))
    const before = section.get('a')
    await asked(done => store.touch('a', cookieFor(HOUR), done))
    expect(section.get('a')).toEqual(before)
    await asked(done => store.touch('a', cookieFor(2 * HOUR), done))
    expect(section.get('a')).not.toEqual(before)
    const touched = await asked<{ user: string; cookie: { expires: string } }>(done => store.get('a', done))
    expect(touched.user).toBe('anna')
    expect(Date.parse(touched.cookie.expires)).toBeGreaterThan(Date.now() + HOUR)
    await asked(done => store.touch('b', cookieFor(HOUR), done))
    expect(await asked(done => store.get('b', done))).toBeNull()
  })

  it('passes errors of the state to the callback, where an exception is not its own', async () => {
    const shop = await member()
    const store = sessionStore(null, { member: shop })
    await shop.close({ timeout: 0 })
    await expect(asked(done => store.set('a', {}, done))).rejects.toThrow(/ERR_FDB|closed|member/)
  })

  it('keeps sessions in memory until the process has a member, which gets them', async () => {
    const store = sessionStore(null)
    const early = new KeyvStore()
    await early.set('x', 1)
    await asked(done => store.set('a', { user: 'anna' }, done))
    expect(await asked(done => store.get('a', done))).toEqual({ user: 'anna' })
    await asked(done => store.touch('a', cookieFor(HOUR), done))
    expect(await asked(done => store.length(done))).toBe(1)
    const shop = await member()
    await shop.section('sessions').settled()
    expect(shop.section('sessions').has('a')).toBe(true)
    expect(await early.get('x')).toBe(1)
    expect(await asked(done => store.get('a', done))).toMatchObject({ user: 'anna' })
  })

  it('refuses options that it does not know', () => {
    expect(() => sessionStore(null, JSON.parse('{ "tll": 1 }'))).toThrow(/did you mean "ttl"/)
    expect(() => sessionStore(JSON.parse('{}'))).toThrow(/Store/)
    expect(() => sessionStore(null, { section: '' })).toThrow(/section/)
    expect(() => new KeyvStore(JSON.parse('{ "name": 1 }'))).toThrow(/name/)
  })
})

describe('the store for Keyv', () => {
  it('keeps values, namespaces and ends, and iterates', async () => {
    const shop = await member()
    const store = new KeyvStore({ member: shop })
    const [a, b] = ['a', 'b'].map(namespace => {
      const keyv = new Keyv({ store: new KeyvStore({ member: shop }), namespace })
      keyv.on('error', error => expect(error).toBeUndefined())
      return keyv
    }) as [Keyv, Keyv]
    await a.set('one', { list: [1] })
    await a.set('short', 'lived', 20)
    await b.set('one', 'eight')
    expect(await a.get('one')).toEqual({ list: [1] })
    expect(await b.get(['one', 'two'])).toEqual(['eight', undefined])
    expect(await a.has('one')).toBe(true)
    await until('it has ended', async () => (await a.get('short')) === undefined)
    const all: unknown[] = []
    for await (const entry of a.iterator!(undefined)) all.push(entry)
    expect(all).toEqual([['one', { list: [1] }]])
    expect(await a.delete('one')).toBe(true)
    expect(await a.delete('one')).toBe(false)
    await a.set('more', 1)
    await a.clear()
    expect(await a.has('more')).toBe(false)
    expect(await b.get('one')).toBe('eight')
    expect(await store.deleteMany(['b:one', 'b:two'])).toBe(true)
    expect(await store.has('b:one')).toBe(false)
    await store.set('c', 1)
    await store.clear()
    expect(shop.section('keyv').size).toBe(0)
    await a.disconnect()
  })

  it('keeps what is no text, too', async () => {
    const store = new KeyvStore({ member: await member(), section: 'cache' })
    await store.set('bytes', Buffer.from('abc'))
    await store.set('when', new Date(0))
    expect(await store.getMany(['bytes', 'when'])).toEqual([Buffer.from('abc'), new Date(0)])
  })
})
