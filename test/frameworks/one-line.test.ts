import { Agent } from 'node:http'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { processesLeft } from '../e2e/auto-record.js'
import { ask } from '../processes/client.js'
import { until } from '../processes/until.js'
import { articles } from './articles.js'
import { installed } from './installed.js'
import { unexpectedLines, unmodified } from './unmodified.js'

const BROWSERS = 10
const VISITS = 5
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

/** Adds an import, and puts `line` in the place of one of the application's. */
function withLine(from: string, line: string, imported: string): (text: string) => string {
  return text => {
    expect(text).toContain(from)
    return `import ${imported}\n${text.replace(from, line)}`
  }
}

/** A browser that is logged in, with two connections: its visits come to the old and to the new version in turn. */
class Browser {
  readonly #url: string
  readonly #user: string
  readonly #agents = [1, 2].map(() => new Agent({ keepAlive: true, maxSockets: 1 }))
  #cookie = ''
  visits = 0
  readonly wrong: string[] = []
  readonly pids = new Set<number>()

  constructor(url: string, user: string) {
    this.#url = url
    this.#user = user
    onTestFinished(() => {
      for (const agent of this.#agents) agent.destroy()
    })
  }

  async login(): Promise<void> {
    const { headers } = await ask(`${this.#url}/login/${this.#user}`, { method: 'POST' }).answer
    this.#cookie = headers['set-cookie']![0]!.split(';', 1)[0]!
  }

  async visit(): Promise<void> {
    const agent = this.#agents[this.visits % 2]!
    const { body } = await ask(`${this.#url}/visit`, { agent, headers: { cookie: this.#cookie } }).answer
    const { pid, ...page } = JSON.parse(body)
    this.visits++
    this.pids.add(pid)
    const wanted = { user: this.#user, visits: this.visits }
    if (JSON.stringify(page) !== JSON.stringify(wanted)) this.wrong.push(`${body}, not visit ${this.visits}`)
  }
}

describe('under fd-broker/auto an application with one line more, upgraded five times under load,', () => {
  it.each([
    ['express-session', 'login.mjs', 'saveUninitialized: false', 'sessionStore(session)', {}],
    // The health check gets a session as any other client.
    [
      '@fastify/session',
      'login-fastify.mjs',
      'cookie: { secure: false }',
      'sessionStore()',
      { FD_BROKER_READY: '/' },
    ],
  ])('logs nobody out, with sessionStore() for %s', async (_module, file, option, call, env) => {
    const imported = "{ sessionStore } from 'fd-broker/stores'"
    const store = withLine(option, `${option}, store: ${call}`, imported)
    const program = await unmodified(file, { modules, env }, store)
    await program.serve()
    const browsers = Array.from({ length: BROWSERS }, (_, n) => new Browser(program.url, `user-${n}`))
    await Promise.all(browsers.map(browser => browser.login()))
    let running = true
    const done = Promise.all(
      browsers.map(async browser => {
        while (running && browser.wrong.length === 0)
          await browser.visit().catch(error => browser.wrong.push(`visit ${browser.visits + 1}: ${error}`))
      }),
    )
    const settled = async () => {
      const before = browsers.map(({ visits }) => visits)
      await until(
        'each has come some times',
        () => browsers.every(({ visits }, n) => visits > before[n]! + VISITS),
        30_000,
        () => browsers.map(({ visits, wrong }, n) => `${visits - before[n]!} visits ${wrong}`),
      )
    }
    await program.upgradedUnderLoad('import', { upgrades: 5, settled })
    running = false
    await done
    expect(browsers.flatMap(({ wrong }) => wrong)).toEqual([])
    expect(new Set(browsers.flatMap(({ pids }) => [...pids])).size).toBe(6)
    expect(unexpectedLines(program)).toEqual([])
    await processesLeft(program, 1)
  })

  it('does each job once, with runOnce() for node-cron', async () => {
    const schedule =
      "cron.schedule('* * * * * *', ({ date }) => db.query('SELECT refresh_prices($1)', [date.toISOString()]))"
    const once = `runOnce(() => {
  const job = ${schedule}
  return () => job.stop()
})`
    const { url, jobs } = await articles()
    const env = { DATABASE_URL: url }
    const program = await unmodified(
      'express.mjs',
      { modules, env },
      withLine(schedule, once, "{ runOnce } from 'fd-broker'"),
    )
    await program.serve()
    const settled = async () => {
      const before = jobs.length
      await until('two jobs are done', () => jobs.length >= before + 2)
    }
    await program.upgradedUnderLoad('import', { upgrades: 5, settled })
    expect(jobs.length).toBeGreaterThanOrEqual(12)
    expect(jobs.filter((time, n) => jobs.indexOf(time) !== n)).toEqual([])
    expect(unexpectedLines(program)).toEqual([])
    await processesLeft(program, 1)
  })
})
