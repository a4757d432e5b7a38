import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'
import { hasEnded } from '../processes/launch.js'
import { handles } from '../processes/marked.js'
import { until } from '../processes/until.js'

async function start(config: Record<string, unknown> = {}): Promise<{ edge: Edge; pid: number }> {
  const app = await upstream()
  const edge = await Edge.start({
    upstreams: { app: { servers: [app.url] } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade: { probation: '0s' },
    ...config,
  })
  return { edge, pid: await edge.pid }
}

const refused = (edge: Edge) =>
  ask(edge.url).answer.then(
    () => false,
    () => true,
  )

describe('signals to the proxy', () => {
  it('USR2: it starts its successor, which serves; this one ends', async () => {
    const { edge, pid } = await start()
    await edge.signal('SIGUSR2', pid)
    const { successor, generation } = await edge.logged('upgraded')
    expect(generation).toBe(2)
    expect((await ask(`${edge.url}/r/1`).answer).headers['x-pid']).toBe(String(successor))
    await edge.ended(pid)
  })

  it('USR2 with a configuration that is wrong by now: it serves on', async () => {
    const { edge, pid } = await start()
    edge.write({ listeners: [] })
    await edge.signal('SIGUSR2', pid)
    const { err } = await edge.logged('the upgrade failed; this process serves on')
    expect(err.code).toBe('ERR_FDB_SUCCESSOR_EXITED')
    // The place in the file, and what is wrong there.
    const place =
      /ended with code \d+ before it served: ERR_FDB_CONFIG: \S+edge\.json:\d+:\d+: listeners: the list is empty/
    expect(err.message).toMatch(place)
    expect((await edge.status()).lastFailure).toMatchObject({
      code: 'ERR_FDB_SUCCESSOR_EXITED',
      message: expect.stringMatching(place),
    })
    expect(readdirSync(dirname(edge.sandbox.control)).filter(name => /\.[0-9a-f]{16}$/.test(name))).toEqual(
      [],
    )
    expect((await ask(`${edge.url}/r/1`).answer).headers['x-pid']).toBe(String(pid))
  })

  it('STOP in probation: the one before serves again; continued, it has lost its right, and ends with a code that says so', async () => {
    const { edge, pid } = await start({ upgrade: { probation: '60s', heartbeat: '50ms', silence: '500ms' } })
    const second = await edge.next()
    await edge.signal('SIGSTOP', second)
    await until('the first serves again', async () => (await edge.pid) === pid)
    await edge.signal('SIGCONT', second)
    await edge.ended(second)
    await edge.logged('the proxy has ended', line => line.pid === second && line.why === 'lost')
    expect(readFileSync(edge.sandbox.log, 'utf8')).toMatch(/^ERR_FDB_LOST: /m)
    await edge.signal('SIGTERM', pid)
    await edge.ended(pid)
  })

  it('TERM: no more is accepted, what is under way is answered, idle connections end, exit code 0', async () => {
    const { edge, pid } = await start()
    const idle = (await edge.raw()).send('GET /r/1 HTTP/1.1\r\nHost: a\r\n\r\n')
    await idle.until(text => text.endsWith('1 item-1\n'))
    const slow = ask(`${edge.url}/slow`)
    const raw = (await edge.raw()).send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n')
    await until('the server has both', async () => (await edge.status()).connections === 3)
    await edge.signal('SIGTERM', pid)
    await until('nobody is accepted', () => refused(edge))
    await until('the idle connection ends', () => idle.ended)
    expect((await slow.answer).body).toBe('slow but sure\n')
    expect(await raw.toTheEnd()).toMatch(/connection: close[\s\S]*slow but sure\n$/i)
    await edge.ended(pid)
    await edge.logged('the proxy has ended', line => line.why === 'closed')
  })

  it('TERM: who has just connected is answered, who goes on to say nothing is not waited for', async () => {
    const { edge, pid } = await start()
    const [asks, silent] = [await edge.raw(), await edge.raw()]
    await until('both are there', async () => (await edge.status()).connections === 2)
    await edge.signal('SIGTERM', pid)
    await edge.logged('signal')
    asks.send('GET /r/1 HTTP/1.1\r\nHost: a\r\n\r\n')
    expect(await asks.toTheEnd()).toMatch(/^HTTP\/1.1 200 [\s\S]*connection: close[\s\S]*1 item-1\n$/i)
    expect(await silent.toTheEnd()).toBe('')
    await edge.ended(pid)
  })

  it('TERM: what has not ended within drain.timeout is closed', async () => {
    const { edge, pid } = await start({ drain: { timeout: '500ms' } })
    const stream = (await edge.raw()).send('GET /stream?lines=1000 HTTP/1.1\r\nHost: a\r\n\r\n')
    await stream.until(text => text.includes('line 3'))
    await edge.signal('SIGTERM', pid)
    await edge.ended(pid, 5_000)
    expect(await edge.logged('connections did not end in time and were closed')).toMatchObject({ busy: 1 })
  })

  it('QUIT, then INT: at once', async () => {
    const { edge, pid } = await start()
    const stream = (await edge.raw()).send('GET /stream?lines=1000 HTTP/1.1\r\nHost: a\r\n\r\n')
    await stream.until(text => text.includes('line 3'))
    await edge.signal('SIGQUIT', pid)
    await until('nobody is accepted', () => refused(edge))
    expect(hasEnded(pid)).toBe(false)
    await edge.signal('SIGINT', pid)
    await edge.ended(pid, 3_000)
  })

  it.runIf(NIGHTLY)('TERM, and TERM again after a while: at once', async () => {
    const { edge, pid } = await start()
    const stream = (await edge.raw()).send('GET /stream?lines=1000 HTTP/1.1\r\nHost: a\r\n\r\n')
    await stream.until(text => text.includes('line 3'))
    await edge.signal('SIGTERM', pid)
    const { time } = await edge.logged('signal')
    await until('a further signal is no repetition any more', () => Date.now() - time > 2_100)
    expect(hasEnded(pid)).toBe(false)
    await edge.signal('SIGTERM', pid)
    await edge.ended(pid, 3_000)
  })

  it('TERM several times within one stop, as supervisors send it: no request is cut', async () => {
    const { edge, pid } = await start()
    const slow = ask(`${edge.url}/slow`)
    await until('the request is under way', async () => (await edge.status()).connections === 1)
    for (const sent of [1, 2, 3]) {
      await edge.signal('SIGTERM', pid)
      await until('the signal has come', () => edge.lines.filter(line => line.signal).length === sent)
    }
    expect((await slow.answer).body).toBe('slow but sure\n')
    await edge.ended(pid)
  })

  it('USR1 does nothing: no inspector, not even before it serves', async () => {
    const edge = await Edge.prepare({ routes: [] })
    const pid = await edge.launch()
    await until('it handles signals', () => handles(pid, 'SIGUSR2'))
    await edge.signal('SIGUSR1', pid)
    await edge.serving(pid)
    await edge.signal('SIGUSR1', pid)
    await edge.logged('signal', line => line.signal === 'SIGUSR1')
    expect((await edge.status()).pid).toBe(pid)
    expect(edge.sandbox.output).not.toMatch(/debugger/i)
  })

  it.runIf(NIGHTLY)('QUIT: it ends with its last connection, however long that takes', async () => {
    const { edge, pid } = await start({ drain: { timeout: '100ms' } })
    const slow = (await edge.raw()).send('GET /slow HTTP/1.1\r\nHost: a\r\n\r\n')
    await until('the request is under way', async () => (await edge.status()).connections === 1)
    await edge.signal('SIGQUIT', pid)
    expect(await slow.toTheEnd()).toMatch(/slow but sure\n$/)
    await edge.ended(pid)
  })

  it('TERM to one that was replaced: its connections, which do not move, go on until they end', async () => {
    const { edge, pid } = await start({ drain: { move: 'off' } })
    const kept = (await edge.raw()).send('GET /r/1 HTTP/1.1\r\nHost: a\r\n\r\n')
    await kept.until(text => text.endsWith('1 item-1\n'))
    await edge.next()
    await edge.signal('SIGHUP', pid)
    const refusal = await edge.logged(
      'the configuration was not applied; the previous one stays in force',
      line => line.pid === pid,
    )
    expect(refusal.err.code).toBe('ERR_FDB_FENCED')
    await edge.signal('SIGTERM', pid)
    await edge.logged('signal', line => line.pid === pid && line.signal === 'SIGTERM')
    kept.send('GET /r/2 HTTP/1.1\r\nHost: a\r\n\r\n')
    const last = await kept.until(text => text.endsWith('2 item-2\n'))
    expect(last).toMatch(/^HTTP\/1\.1 200 [\s\S]*connection: close/i)
    kept.socket.end()
    await edge.ended(pid)
  })

  it('HUP before it serves: the configuration is read anew when it serves', async () => {
    const respond = (body: string) => ({ routes: [{ host: '*', respond: { body } }] })
    const { edge } = await start({ upstreams: {}, ...respond('one') })
    const [asked, gate] = ['asked', 'gate'].map(name => `${edge.sandbox.folder}/${name}`) as [string, string]
    // A version that has read its file, and does not serve before the gate is open.
    const command = `echo > ${asked}; test -e ${gate}`
    const health = { command, passes: 1, interval: '100ms', timeout: '5s', within: '30s' }
    edge.write({ upgrade: { probation: '0s', ready: '60s', timeout: '60s', health } })
    const next = await edge.launch()
    await until('it is asked for its health', () => existsSync(asked), 20_000)
    edge.write(respond('two'))
    await edge.signal('SIGHUP', next)
    await edge.logged('signal', line => line.pid === next)
    writeFileSync(gate, '')
    await edge.logged('the configuration was read again', line => line.pid === next)
    expect((await ask(edge.url).answer).body).toBe('two')
  })

  it.each(['SIGTERM', 'SIGQUIT', 'SIGINT'] as const)(
    '%s to a next version that waits for its health: it ends, and the previous one serves on',
    async signal => {
      const { edge, pid } = await start()
      const [asked, gate] = ['asked', 'gate'].map(name => `${edge.sandbox.folder}/${name}`) as [
        string,
        string,
      ]
      const command = `echo > ${asked}; test -e ${gate}`
      const health = { command, passes: 1, interval: '100ms', timeout: '5s', within: '30s' }
      edge.write({ upgrade: { probation: '10s', ready: '60s', timeout: '60s', health } })
      const next = await edge.launch()
      await until('it is asked for its health', () => existsSync(asked), 20_000)
      await edge.signal(signal, next)
      await edge.logged('signal', line => line.pid === next)
      writeFileSync(gate, '')
      await edge.ended(next)
      expect(edge.sandbox.output).toContain(`ERR_FDB_ABORTED: ended by ${signal} before it served`)
      expect((await ask(`${edge.url}/r/1`).answer).headers['x-pid']).toBe(String(pid))
      expect(await edge.status()).toMatchObject({ pid, role: 'serving', phase: 'idle' })
    },
  )

  it('before it serves: USR2 does nothing, HUP waits, TERM ends it', async () => {
    const edge = await Edge.prepare({ routes: [] })
    const pid = await edge.launch()
    await until('it handles signals', () => handles(pid, 'SIGUSR2'))
    await edge.signal('SIGHUP', pid)
    await edge.signal('SIGUSR2', pid)
    await edge.signal('SIGTERM', pid)
    await edge.ended(pid)
    expect(edge.sandbox.output).not.toContain('ERR_FDB_INTERNAL')
  })
})
