import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import { until } from '../processes/until.js'
import { Application } from './application.js'
import { installed } from './installed.js'
import { blockOf, blocksOf, commandOf, commandsOf, pageText } from './page.js'

const PAGE = 'frameworks.md'
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const PLAIN = ['express.mjs', 'fastify.mjs', 'koa.mjs', 'hono.mjs', 'server.mts']
const OTHERS = ['service.mjs', 'ws.mjs', 'ws-moves.mjs', 'socketio.mjs', 'worker.mjs', 'edge.yaml']
/** Tried in heavy/. */
const LARGE = ['nest.ts', 'tsconfig.json', 'next.mjs', 'vite-ssr.mjs']
const BUILDS = ['node --import tsx nest', 'npx next build', 'npx vite build --out', 'npx vite build --ssr']
const [UPGRADE, BY_TSX, START_WORKERS, UPGRADE_WORKERS, START_BEHIND] = [
  'npx fd-broker upgrade',
  'node --import tsx server',
  'for n in 1 2; do WORKER=$n node',
  'for n in 1 2; do npx',
  'for n in 1 2; do WORKER=$n LISTEN',
].map(begin => commandOf(PAGE, begin)) as [string, string, string, string, string]
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

describe('docs/frameworks.md', () => {
  it('names the versions that it is tried with', () => {
    const locked = (folder: string) =>
      JSON.parse(readFileSync(new URL(`${folder}package-lock.json`, import.meta.url), 'utf8')).packages
    const packages = { ...locked('heavy/'), ...locked('') }
    const named = [...pageText(PAGE).matchAll(/^\| \[.*\| ([^|]+) \|$/gm)].flatMap(([, cell = '']) =>
      cell.split(', '),
    )
    expect(named.length).toBeGreaterThan(5)
    for (const name of named) {
      const [, module = '', version] = /^(\S+) (\S+)$/.exec(name)!
      expect(`${module} ${packages[`node_modules/${module}`].version}`).toMatch(`${module} ${version}.`)
    }
  })

  it('has no program that is not tried', () => {
    const files = blocksOf(PAGE).flatMap(({ file, language }) => (language === 'sh' ? [] : [file]))
    expect(files.sort()).toEqual([...PLAIN, ...OTHERS, ...LARGE].sort())
    const builds = BUILDS.map(begin => commandOf(PAGE, begin))
    expect(commandsOf(PAGE)).toEqual([
      UPGRADE,
      ...builds,
      BY_TSX,
      START_WORKERS,
      UPGRADE_WORKERS,
      START_BEHIND,
    ])
  })
})

/** The files, as they are in docs/frameworks.md, beside the file that most programs of the page share. */
function shown(...files: string[]): Promise<Application> {
  const blocks = ['service.mjs', ...files].map(file => [file, blockOf(PAGE, file)])
  return Application.with(Object.fromEntries(blocks), modules)
}

/** Upgraded three times under load, and ended: nothing is lost, and nothing is complained about. */
async function upgraded(application: Application, command: string): Promise<void> {
  const service = await application.serve(...command.split(' '))
  await application.underLoad(async generation => expect(await service.upgrade()).toBe(generation))
  await application.stop()
  expect(application.sandbox.output).toBe('')
}

describe('docs/frameworks.md: a server is upgraded three times under load, and no request fails, with', () => {
  it.each(PLAIN.filter(file => !file.endsWith('.mts')))('%s', async file => {
    await upgraded(await shown(file), `node ${file}`)
  })

  it('server.mts, by tsx', async () => {
    await upgraded(await shown('server.mts'), BY_TSX)
  })
})

describe('docs/frameworks.md: the command', () => {
  it('upgrades them', async () => {
    const application = await shown('express.mjs')
    const service = await application.serve('node', 'express.mjs')
    expect(await application.run(UPGRADE)).toMatchObject({ code: 0 })
    await service.serves(2)
    await application.stop()
  })
})

describe('docs/frameworks.md: connections that were upgraded', () => {
  it('of ws stay with the process that accepted them', async () => {
    const application = await shown('ws.mjs')
    const service = await application.serve('node', 'ws.mjs')
    const old = await talkTo(application.url)
    await application.underLoad(async generation => {
      await service.upgrade()
      expect(await old.ask(`hello ${generation}`)).toBe(`hello ${generation} to generation 1`)
      const young = await talkTo(application.url)
      expect(await young.ask('hello')).toBe(`hello to generation ${generation}`)
      young.close()
    })
    old.close()
    await application.stop()
    expect(application.sandbox.output).toBe('')
  })

  it('of ws go on in the next process, with hooks', async () => {
    const application = await shown('ws-moves.mjs')
    const service = await application.serve('node', 'ws-moves.mjs')
    const old = await talkTo(`${application.url}/anna`)
    await application.underLoad(async generation => {
      await service.upgrade()
      await until(
        `generation ${generation} has the WebSocket`,
        async () => (await old.ask('hello')) === `hello to generation ${generation} from /anna`,
      )
    })
    old.close()
    await application.stop()
    expect(application.sandbox.output).toBe('')
  })

  it('of socket.io come to the next process by themselves, and every message is answered', async () => {
    const application = await shown('socketio.mjs')
    const service = await application.serve('node', 'socketio.mjs')
    const { io } = await import(pathToFileURL(join(modules, 'socket.io-client/build/esm/index.js')).href)
    const options = { transports: ['websocket'], retries: 10, ackTimeout: 5_000, reconnectionDelay: 50 }
    const client = io(application.url, options)
    onTestFinished(() => client.close())
    let count = 0
    const ask = (): Promise<string> => {
      const text = `message ${++count}`
      return new Promise((resolve, reject) => {
        client.emit('echo', text, (error: Error | null, reply: string) =>
          reply?.startsWith(`${text} to `) ? resolve(reply) : reject(error ?? new Error(`${text}: ${reply}`)),
        )
      })
    }
    await ask()
    await application.underLoad(async generation => {
      await service.upgrade()
      await until(
        `generation ${generation} has the client`,
        async () => (await ask()).endsWith(` to generation ${generation}`),
        20_000,
      )
    })
    client.close()
    await application.stop()
    expect(application.sandbox.output).toBe('')
  })
})

describe('docs/frameworks.md: several cores', () => {
  it('run a service each, on one port', async () => {
    const application = await shown('worker.mjs')
    const workers = [1, 2].map(worker => application.service(`run/${worker}.sock`))
    await application.launch('sh', '-c', START_WORKERS)
    for (const worker of workers) await worker.serves(1)
    await application.underLoad(async generation => {
      if (generation === 2) expect(await application.run(UPGRADE_WORKERS)).toMatchObject({ code: 0 })
      else for (const worker of workers) expect(await worker.upgrade()).toBe(generation)
    })
    await application.stop()
    expect(application.sandbox.output).toBe('')
  })

  it('run behind the proxy, which upgrades with them', async () => {
    const application = await shown('worker.mjs', 'edge.yaml')
    const services = ['1', '2', 'edge'].map(name => application.service(`run/${name}.sock`))
    await application.launch('sh', '-c', application.here(START_BEHIND))
    for (const service of services.slice(0, 2)) await service.serves(1)
    await application.launch('node', CLI, 'proxy', '--config', 'edge.yaml')
    await services[2]!.serves(1)
    await application.underLoad(async generation => {
      for (const service of services) expect(await service.upgrade()).toBe(generation)
    })
    await application.stop()
  })
})

/** A WebSocket that asks, one question after the other. */
async function talkTo(url: string) {
  const ws = new WebSocket(url.replace('http:', 'ws:'), { perMessageDeflate: false })
  onTestFinished(() => ws.terminate())
  await once(ws, 'open')
  return {
    async ask(text: string): Promise<string> {
      const answered = once(ws, 'message')
      ws.send(text)
      const [answer] = await answered
      return String(answer)
    },
    close: () => ws.close(),
  }
}
