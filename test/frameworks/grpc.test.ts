import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { CERTIFICATE, KEY } from '../e2e/relay-certificate.js'
import { until } from '../processes/until.js'
import { installed } from './installed.js'
import { unexpectedLines, unmodified } from './unmodified.js'

let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

const encode = (value: string) => Buffer.from(value)
const decode = (bytes: Buffer) => bytes.toString()
const pidIn = (text: string) => Number(/pid (\d+)/.exec(text)?.[1] ?? 0)

/** Calls of @grpc/grpc-js to one server: single ones, and one that streams both ways. */
function client(port: number, secure: boolean, more: object = {}) {
  const grpc = createRequire(`${modules}/`)('@grpc/grpc-js')
  const credentials = secure
    ? grpc.credentials.createSsl(Buffer.from(CERTIFICATE))
    : grpc.credentials.createInsecure()
  const options = { 'grpc.ssl_target_name_override': 'a', ...more }
  const one = new grpc.Client(`127.0.0.1:${port}`, credentials, options)
  onTestFinished(() => one.close())
  return {
    ask: (question: string) =>
      new Promise<string>((resolve, reject) =>
        one.makeUnaryRequest('/Shop/Ask', encode, decode, question, (error: unknown, reply: string) =>
          error ? reject(error) : resolve(reply),
        ),
      ),
    talk: () => {
      const call = one.makeBidiStreamRequest('/Shop/Talk', encode, decode)
      const replies: string[] = []
      const failures: unknown[] = []
      call.on('data', (reply: string) => replies.push(reply))
      call.on('error', (error: unknown) => failures.push(error))
      return { call, replies, failures }
    },
  }
}

describe('under fd-broker/auto a server of @grpc/grpc-js is upgraded three times, and no call fails,', () => {
  it.each([false, true])('with TLS: %s', async secure => {
    const program = await unmodified('grpc.mjs', { modules })
    program.write('own.key', KEY)
    program.write('own.crt', CERTIFICATE)
    const env = secure ? { TLS: program.path('own') } : {}
    await program.serve('import', 1, env)
    const { ask, talk } = client(program.port, secure)
    const failures: unknown[] = []
    let asking = true
    const answered = new Set<number>()
    const asked = (async () => {
      for (let n = 0; asking; n++) {
        const reply = await ask(`question ${n}`).catch(error => void failures.push(error))
        if (reply) answered.add(pidIn(reply))
      }
    })()
    for (let generation = 2; generation <= 4; generation++) {
      const { call, replies, failures: broken } = talk()
      call.write('before')
      await until('it is answered', () => replies.length === 1)
      const pid = await program.serve('import', generation, env)
      // The stream stays with the version that accepted it.
      call.write('after')
      await until('it is answered again', () => replies.length === 2)
      call.end()
      expect(new Set(replies.map(pidIn)).size).toBe(1)
      expect(broken).toEqual([])
      await until('the next version answers', () => answered.has(pid) || null)
    }
    asking = false
    await asked
    expect(failures).toEqual([])
    expect(unexpectedLines(program)).toEqual([])
  })
})

/** Calls that are under way at once, of each client. */
const UNDER_WAY = 10
const CLIENTS = 4
const CALLS = 2_000
const UPGRADES = 5

it('no call of 2,000 over TLS fails in five upgrades although the clients repeat none', {
  timeout: 240_000,
}, async () => {
  const program = await unmodified('grpc.mjs', { modules })
  program.write('own.key', KEY)
  program.write('own.crt', CERTIFICATE)
  const env = { TLS: program.path('own') }
  await program.serve('import', 1, env)
  const failures: unknown[] = []
  const answered = new Map<number, number>()
  let asking = true
  let calls = 0
  const clients = Array.from({ length: CLIENTS }, () =>
    client(program.port, true, { 'grpc.enable_retries': 0, 'grpc.use_local_subchannel_pool': 1 }),
  )
  const work = clients.flatMap(({ ask }) =>
    Array.from({ length: UNDER_WAY }, async () => {
      while (asking) {
        const pid = pidIn(await ask(`question ${++calls}`).catch(error => `${failures.push(error)}`))
        answered.set(pid, (answered.get(pid) ?? 0) + 1)
      }
    }),
  )
  for (let generation = 2; generation <= 1 + UPGRADES; generation++) {
    const pid = await program.serve('import', generation, env)
    await until('the next version answers', () => (answered.get(pid) ?? 0) > 100 || null, 60_000)
  }
  await until('the calls are made', () => calls > CALLS, 60_000)
  asking = false
  await Promise.all(work)
  expect(failures).toEqual([])
  expect([...answered.values()].reduce((sum, count) => sum + count)).toBe(calls)
  expect(unexpectedLines(program)).toEqual([])
})
