#!/usr/bin/env node
// A shop whose routes are state. Start it twice: the second process takes over the listener and the routes from the first,
// and no client notices.
//
//   node docs/examples/shop/server.mjs --control /run/shop/upgrade.sock --listen tcp://127.0.0.1:8080
//
// GET /r/<n> returns the route's value, PUT /r/<n> changes it, /visit/<name> counts visits, /slow and /stream answer slowly,
// /whoami returns generation and pid. `--control none` runs the shop alone, without upgrades.
import http from 'node:http'
import { parseArgs } from 'node:util'
import { codec, defineSection, join } from 'fd-broker'

const { values: flags } = parseArgs({
  options: {
    control: { type: 'string', default: process.env.SHOP_CONTROL ?? 'none' },
    listen: { type: 'string', default: process.env.SHOP_LISTEN ?? 'tcp://127.0.0.1:8080' },
    routes: { type: 'string', default: process.env.SHOP_ROUTES ?? '10000' },
  },
})

const control = flags.control === 'none' ? false : flags.control
const member = await join({ service: 'shop', control, systemd: 'auto', mainProcess: 'stays' })
const routes = member.section('routes', defineSection({ version: 1, codec: codec.json() }))
const visits = member.section('visits', defineSection({ version: 1, codec: codec.json() }))

// Only the first process of the service finds no routes; every other process gets those of its predecessor. The first
// process makes the change at once; a change by a successor would wait until the successor serves.
const filled = routes.size === 0 ? routes.bulk(firstRoutes(Number(flags.routes))) : undefined

const server = http.createServer({ keepAliveTimeout: 60_000 }, (request, response) => {
  response.setHeader('x-generation', String(member.generation))
  response.setHeader('x-pid', String(process.pid))
  handle(request, response).catch(error => fail(response, error))
})

const web = await member.listen('web', flags.listen)
web.serve(server)

for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => member.close({ timeout: 10_000 }))

await member.ready()
await filled
console.log(`generation ${member.generation} (pid ${process.pid}) serves ${flags.listen}`)

// As PID 1 of a container this process stays, because its successors would end with it.
const stayed = member.stay({ signals: ['SIGTERM', 'SIGINT'] })
const why = await member.retired
console.log(`generation ${member.generation} (pid ${process.pid}) is done: ${why}`)
process.exitCode = await stayed

function* firstRoutes(count) {
  for (let n = 0; n < count; n++) yield { key: String(n), value: { item: `item-${n}` } }
}

async function handle(request, response) {
  const url = new URL(request.url ?? '/', 'http://shop')
  const [, page = '', key = ''] = url.pathname.split('/')
  if (page === 'r' && request.method === 'PUT') {
    await routes.put(key, { item: await textOf(request) })
    response.end('written\n')
  } else if (page === 'r' && routes.get(key)) {
    response.end(`${key} ${routes.get(key).item}\n`)
  } else if (page === 'visit') {
    // The visit is counted once, even if this process was replaced meanwhile: update() calls the function with the current value.
    response.end(`visit ${await visits.update(key, (count = 0) => count + 1)}\n`)
  } else if (page === 'slow') {
    await pause(1500)
    response.end('slow but sure\n')
  } else if (page === 'stream') {
    for (let line = 0; line < Number(url.searchParams.get('lines') ?? 30); line++) {
      response.write(`line ${line}\n`)
      await pause(100)
    }
    response.end()
  } else if (page === 'whoami') {
    response.end(`${member.generation},${process.pid}\n`)
  } else {
    response.writeHead(404).end('no such page\n')
  }
}

// After a retryable error the client may repeat its request, which then reaches the serving process.
function fail(response, error) {
  if (response.headersSent) return response.destroy()
  response.writeHead(error.retryable ? 503 : 500, error.retryable ? { 'retry-after': '0' } : {})
  response.end(`${error.code ?? 'error'}: ${error.message}\n`)
}

async function textOf(request) {
  let text = ''
  for await (const chunk of request.setEncoding('utf8')) text += chunk
  return text
}

function pause(ms) {
  return new Promise(resolve => setTimeout(resolve, ms))
}
