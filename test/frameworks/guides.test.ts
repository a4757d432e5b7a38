import { existsSync, readFileSync } from 'node:fs'
import { Agent, get } from 'node:http'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { parse } from 'yaml'
import { ask } from '../processes/client.js'
import * as operator from '../processes/operator.js'
import { until } from '../processes/until.js'
import { Application } from './application.js'
import { installed } from './installed.js'
import { blockOf, blocksOf, commandOf, commandsOf, pageText } from './page.js'

let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

/** An application whose command lines find the service in its own folder. */
class Shop {
  readonly application: Application
  readonly #env: string

  constructor(application: Application) {
    this.application = application
    application.write('run/.keep', '')
    this.#env = `RUNTIME_DIRECTORY=${join(application.folder, 'run')}`
  }

  get control(): string {
    return join(this.application.folder, 'run/shop.sock')
  }

  async serves(generation: number): Promise<number> {
    const look = async () => {
      const status = await operator.status(this.control).catch(() => null)
      return status?.generation === generation && status.role === 'serving' ? status.pid : null
    }
    return await until(`generation ${generation} serves`, look, 20_000, () => this.application.sandbox.output)
  }

  launch(line: string): Promise<number> {
    return this.application.launch('env', this.#env, ...line.split(' '))
  }

  async run(line: string, wanted = 0): Promise<string> {
    const { code, stdout, stderr } = await this.application.run(`${this.#env} ${line}`)
    expect(code, stdout + stderr).toBe(wanted)
    return stdout
  }
}

describe('docs/first-hour.md', () => {
  const PAGE = 'first-hour.md'
  const [DOCTOR, INIT, START, UPGRADE, STATUS, STOP] = [
    'npx fd-broker doctor',
    'npx fd-broker init',
    'node --import',
    'npx fd-broker upgrade',
    'npx fd-broker status',
    'npx fd-broker stop',
  ].map(begin => commandOf(PAGE, begin)) as [string, string, string, string, string, string]

  it('has nothing that is not tried', () => {
    expect(blocksOf(PAGE).flatMap(({ file }) => file || [])).toEqual(['server.mjs'])
    expect(commandsOf(PAGE)).toEqual(['npm install ../fd-broker', DOCTOR, INIT, START, UPGRADE, STATUS, STOP])
  })

  it('makes a shop that loses no login and no request over three upgrades, and whose report runs in one process', async () => {
    const application = await Application.with({ 'server.mjs': blockOf(PAGE, 'server.mjs') }, modules)
    application.write('package.json', '{ "name": "shop", "dependencies": { "express": "^5.0.0" } }')
    const shop = new Shop(application)
    await shop.run(DOCTOR)
    // Without a terminal it only shows the change.
    expect(await shop.run(INIT, 2)).toMatch(/^framework: express/)
    await shop.launch(START)
    await shop.serves(1)
    const agent = new Agent({ keepAlive: true, maxSockets: 2 })
    onTestFinished(() => agent.destroy())
    const { headers } = await ask(`${application.url}/login/anna`, { agent }).answer
    const cookie = headers['set-cookie']![0]!.split(';', 1)[0]!
    const wrong: string[] = []
    const servers = new Set<string>()
    let running = true
    const visits = Promise.all(
      Array.from({ length: 4 }, async () => {
        while (running) {
          const answer = await ask(application.url, { agent, headers: { cookie } }).answer.catch(String)
          const found = typeof answer === 'string' ? null : /^hello anna from (\d+)\n$/.exec(answer.body)
          if (found === null) wrong.push(JSON.stringify(answer))
          else servers.add(found[1]!)
        }
      }),
    )
    const log = () => readFileSync(join(application.folder, 'shop.log'), 'utf8')
    const reports = () => [...log().matchAll(/^report by (\d+)$/gm)].map(([, pid]) => Number(pid))
    const pids = [await shop.serves(1)]
    for (let generation = 2; generation <= 4; generation++) {
      await until(`generation ${generation - 1} reports`, () => reports().includes(pids.at(-1)!))
      await shop.run(UPGRADE)
      pids.push(await shop.serves(generation))
    }
    await until('the last one reports', () => reports().includes(pids.at(-1)!))
    running = false
    await visits
    expect(wrong).toEqual([])
    expect([...servers].map(Number).sort()).toEqual([...pids].sort())
    // Each one's reports are together.
    expect(reports().filter((pid, i, all) => pid !== all[i - 1])).toEqual(pids)
    expect(await shop.run(STATUS)).toContain('generation')
    await shop.run(STOP)
    await application.ended()
  })
})

/** A browser's EventSource: reads one stream after the other, and says which id it has seen last. */
class EventSource {
  readonly ids: number[] = []
  readonly texts: string[] = []
  streams = 0
  #closed = false
  readonly #url: string

  constructor(url: string) {
    this.#url = url
    void this.#connect()
    onTestFinished(() => this.close())
  }

  close(): void {
    this.#closed = true
  }

  async #connect(): Promise<void> {
    while (!this.#closed) {
      const last = this.ids.at(-1)
      const headers = last === undefined ? {} : { 'last-event-id': String(last) }
      await new Promise<void>(resolve => {
        const request = get(this.#url, { headers, agent: false }, response => {
          this.streams++
          let text = ''
          response.setEncoding('utf8').on('data', (piece: string) => {
            text += piece
            for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
              this.#take(text.slice(0, end))
              text = text.slice(end + 2)
            }
            if (this.#closed) request.destroy()
          })
          response.on('close', resolve)
        })
        request.on('error', () => resolve())
      })
      await new Promise(resolve => setTimeout(resolve, 20))
    }
  }

  #take(event: string): void {
    const [, id] = /^id: (\d+)$/m.exec(event) ?? []
    if (id === undefined) return
    this.ids.push(Number(id))
    this.texts.push(/^data: (.*)$/m.exec(event)![1]!)
  }
}

describe('docs/real-time.md', () => {
  const PAGE = 'real-time.md'

  it('has nothing that is not tried', () => {
    expect(blocksOf(PAGE).map(({ file }) => file)).toEqual(['sse.mjs'])
  })

  it('sends each event once, in order, over three upgrades, to clients that come back', async () => {
    const application = await Application.with({ 'sse.mjs': blockOf(PAGE, 'sse.mjs') }, modules)
    const service = await application.serve('node', 'sse.mjs')
    const sources = [new EventSource(application.url), new EventSource(application.url)]
    for (let generation = 2; generation <= 4; generation++) {
      expect(await service.upgrade()).toBe(generation)
      const text = `by generation ${generation}`
      await until(`events ${text} have come`, () =>
        sources.every(({ texts }) => texts.filter(one => one === text).length > 5),
      )
    }
    for (const { ids, streams } of sources) {
      expect(ids).toEqual(ids.map((_, i) => i + 1))
      expect(streams).toBe(4)
    }
    for (const source of sources) source.close()
    await application.stop()
    expect(existsSync(join(application.folder, 'run/upgrade.sock'))).toBe(false)
    expect(application.sandbox.output).toBe('')
  })
})

describe('docs/deploy.md: in CI, and Docker Compose', () => {
  const PAGE = 'deploy.md'

  const server = (text: string) =>
    `import http from 'node:http'
http.createServer((_request, response) => response.end('${text}')).listen(8080, '127.0.0.1')
`

  /** A repository of the shop, and its clone on the server. */
  async function repository() {
    const application = await Application.with({}, modules)
    // fd-broker is in the folder above.
    application.write('shop/package.json', JSON.stringify({ name: 'shop', private: true }))
    application.write('shop/.gitignore', 'node_modules/\nreleases/\ncurrent*\nrun/\n')
    application.write('shop/server.mjs', server('version 1'))
    for (const name of ['deploy.sh', 'release.sh']) application.write(`shop/${name}`, blockOf(PAGE, name))
    const commit =
      'git -c user.name=a -c user.email=a@b add -A && git -c user.name=a -c user.email=a@b commit -q -m version'
    const run = async (line: string) =>
      await application.run(
        `RUNTIME_DIRECTORY=$PWD/run; export RUNTIME_DIRECTORY; mkdir -p -m 0700 run; ${line}`,
      )
    const done = async (line: string) => {
      const ran = await run(line)
      expect(ran.code, ran.stdout + ran.stderr).toBe(0)
      return ran
    }
    await done(
      `cd shop && git init -q -b main && npm install --package-lock-only --no-audit --no-fund && ${commit}`,
    )
    await done('git clone -q shop server && cd server && npm ci --no-audit --no-fund')
    const write = async (text: string) => {
      application.write('shop/server.mjs', text)
      await done(`cd shop && ${commit}`)
    }
    const answers = async () => (await ask(application.url).answer).body
    const start = async (line: string) => {
      void application.run(`cd server && RUNTIME_DIRECTORY=${application.folder}/run ${line}`)
      await application.answers()
    }
    return { application, run, done, write, answers, start }
  }

  it('deploys by a script, which fails with the new version, and leaves the old one', async () => {
    const { application, run, done, write, answers, start } = await repository()
    await start('node --import fd-broker/auto server.mjs')
    expect(await answers()).toBe('version 1')
    await write(server('version 2'))
    await done('cd server && sh deploy.sh')
    expect(await answers()).toBe('version 2')
    await write('throw new Error("it is broken")')
    const failed = await run('cd server && sh deploy.sh')
    expect(failed.code).not.toBe(0)
    expect(failed.stderr).toContain('it is broken')
    expect(await answers()).toBe('version 2')
    expect(parse(blockOf(PAGE, 'deploy.yaml')).jobs.deploy.steps[0].run).toContain('sh deploy.sh')
    await application.stop()
  })

  it('deploys into a folder of its own, and leads back', async () => {
    const { application, done, write, answers, start } = await repository()
    await done(
      'cd server && mkdir releases && git worktree add -q releases/first && (cd releases/first && npm ci --no-audit --no-fund) && ln -s releases/first current',
    )
    await start('node --import fd-broker/auto current/server.mjs')
    await write(server('version 2'))
    await done('cd server && git pull -q --ff-only && sh release.sh')
    expect(await answers()).toBe('version 2')
    await done('cd server && npx fd-broker rollback --service shop --at current')
    expect(await answers()).toBe('version 1')
    await application.stop()
  })

  it('makes a container whose first process stays', async () => {
    const application = await Application.with({ 'server.mjs': server('hello') }, modules)
    const { command, environment, stop_grace_period } = parse(blockOf(PAGE, 'compose.yaml')).services.shop
    expect(stop_grace_period).toBe('40s')
    application.write('run/.keep', '')
    const main = await application.launch(
      'env',
      `FD_BROKER_CONTROL=${environment.FD_BROKER_CONTROL}`,
      `PATH=${join(modules, '.bin')}:${process.env.PATH}`,
      ...command.split(' '),
    )
    await application.answers()
    const before = (await operator.status(join(application.folder, 'run/upgrade.sock'))).pid
    const exec = commandOf(PAGE, 'docker compose exec shop ').replace('docker compose exec shop ', '')
    const upgraded = await application.run(exec)
    expect(upgraded.code, upgraded.stdout + upgraded.stderr).toBe(0)
    await application.answers()
    expect((await operator.status(join(application.folder, 'run/upgrade.sock'))).pid).not.toBe(before)
    expect(main).not.toBe(before)
    await application.stop()
  })
})

describe('docs/coming-from.md', () => {
  it('has commands that there are, with options that they have', async () => {
    const application = await Application.with({}, modules)
    const lines = [...pageText('coming-from.md').matchAll(/fd-broker (?:[a-z]+ ?)+(?:--[a-z]+ ?[\w:/.]*)*/g)]
    const found = lines.map(([line]) => line.trim())
    expect(found.length).toBeGreaterThan(6)
    for (const line of found) {
      const words = line.split(' ').slice(1)
      const names = words.filter((word, i) => /^[a-z]+$/.test(word) && !words[i - 1]?.startsWith('--'))
      const { code, stdout } = await application.run(`npx fd-broker ${names.join(' ')} --help`)
      expect(code, line).toBe(0)
      for (const option of words.filter(word => word.startsWith('--'))) expect(stdout).toContain(option)
    }
  })
})
