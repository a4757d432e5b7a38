// @ts-check
// The application of the chaos counts and keeps its requests, and harms itself as no other process can. The first
// argument has the options as JSON.
import http from 'node:http'
import { codec, defineSection, join } from 'fd-broker'

/** @type {{ control: string, hosting?: 'daemon', port: number, stateFile: string | null, upgrade: object, itself: { act: 'hang' | 'throw' | 'close', ms: number } | null, throwsBefore: boolean }} */
const options = JSON.parse(process.argv[2] ?? '{}')
/** @param {object} said */
const say = said => {
  if (process.connected) process.send?.(said, () => {})
}
/** @param {number} ms */
const hang = ms => {
  const until = performance.now() + ms
  while (performance.now() < until);
}
/** @param {string} level */
const log = level => (/** @type {any} */ facts, /** @type {string} */ text) =>
  process.stderr.write(
    `${new Date().toISOString()} ${process.pid} ${level} ${text} ${facts?.phase ?? ''} ${facts?.err?.code ?? ''} ${facts?.err?.message ?? ''}\n`,
  )

/** Stalls of this process, beside those that the load generator sees. */
const STALL_MS = 1_000
let turnedAt = performance.now()
setInterval(() => {
  const now = performance.now()
  if (now - turnedAt > STALL_MS)
    log('warn')({}, `the event loop stood still for ${Math.round(now - turnedAt)} ms`)
  turnedAt = now
}, 100).unref()

const member = await join({
  service: 'chaos',
  control: options.control,
  hosting: options.hosting ?? 'embedded',
  upgrade: options.upgrade,
  drain: { timeout: 25_000 },
  ...(options.stateFile !== null && { stateFile: { path: options.stateFile, sync: 50 } }),
  logger: { debug() {}, info: log('info'), warn: log('warn'), error: log('error') },
})
const kept = member.section('kept', defineSection({ version: 1, codec: codec.json() }))
const counts = member.section('counts', defineSection({ version: 1, codec: codec.json() }))
let opened = () => {}
const gate = new Promise(resolve => {
  opened = () => resolve(true)
})

process.on('message', (/** @type {any} */ order) => {
  switch (order.order) {
    case 'open':
      return opened()
    case 'hang':
      return hang(order.ms)
    case 'throw':
      setImmediate(() => {
        throw new Error('the chaos wants it')
      })
      return
    case 'dump': {
      const keys = [...kept.keys()].filter(key => key.startsWith(order.prefix))
      return say({ said: 'dump', keys, counts: Object.fromEntries(counts.entries()) })
    }
  }
})
// The parent is gone.
process.on('disconnect', () => process.exit(1))

member.on('serving', () => {
  say({ said: 'serving' })
  const { itself } = options
  if (itself === null) return
  if (itself.act === 'hang') return hang(itself.ms)
  setTimeout(() => {
    if (itself.act === 'throw') throw new Error('the chaos wants it')
    void member.close()
  }, itself.ms)
})
member.on('retiring', () => say({ said: 'retiring' }))
member.on('reinstated', () => say({ said: 'reinstated' }))
member.retired.then(why => {
  say({ said: 'retired', why })
  setTimeout(() => process.exit(0), 10)
})

const server = http.createServer((request, response) => {
  handle(request).then(
    answer => response.end(answer ?? `${member.generation} ${process.pid}\n`),
    error => {
      response.writeHead(error.retryable === false ? 500 : 503)
      response.end(`${error.code} ${error.message}\n`)
    },
  )
})
server.keepAliveTimeout = 60_000

/** @param {http.IncomingMessage} request @returns {Promise<string | void>} */
async function handle(request) {
  const [, kind = '', key = ''] = (request.url ?? '').split('/')
  const id = String(request.headers['x-request-id'])
  if (kind === 'dump')
    return JSON.stringify({ keys: [...kept.keys()], counts: Object.fromEntries(counts.entries()) })
  if (kind === 'memory') await kept.put(key, 1, { request: id })
  else if (kind === 'durable') await kept.put(key, 1, { request: id, durable: true })
  else if (kind === 'count') await counts.update(key, (/** @type {any} */ n) => (n ?? 0) + 1, { request: id })
}

const listener = await member.listen('web', `tcp://127.0.0.1:${options.port}`)
listener.serve(server)
say({ said: 'waits', first: member.first })
await member.ready({
  checks: [
    async () => {
      // The first process waits for no other; one that an operator's upgrade has started gets no orders.
      if (!member.first && process.connected) await gate
      if (options.throwsBefore) throw new Error('the chaos wants it')
    },
  ],
})
say({ said: 'ready' })
