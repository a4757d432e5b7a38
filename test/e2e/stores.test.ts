import { Agent } from 'node:http'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { wholeLines } from '../processes/whole-lines.js'

const APP = fileURLToPath(new URL('../fixtures/app-stores.mjs', import.meta.url))
const BROWSERS = 12
/** On a machine that has much else to do. */
const BUSY_MS = 60_000

interface Page {
  readonly user: string | null
  readonly visits: number
  readonly last?: number
  readonly early?: string
  readonly generation: number
}

/** A browser with two connections: its requests come to the old and to the new process in turn. */
class Browser {
  readonly name: string
  readonly #url: string
  readonly #agents = [1, 2].map(() => new Agent({ keepAlive: true, maxSockets: 1 }))
  #cookie = ''
  #asked = 0
  visits = 0
  /** Answers without the user. */
  logouts = 0
  readonly wrong: string[] = []
  readonly pages: { readonly generation: number; readonly at: number }[] = []

  constructor(url: string, name: string) {
    this.#url = url
    this.name = name
    onTestFinished(() => this.close())
  }

  close(): void {
    for (const agent of this.#agents) agent.destroy()
  }

  async page(path: string): Promise<Page> {
    const agent = this.#agents[this.#asked++ % 2]!
    const headers = this.#cookie === '' ? {} : { cookie: this.#cookie }
    const answer = await ask(`${this.#url}${path}`, { agent, headers: headers as Record<string, string> })
      .answer
    const [cookie] = answer.headers['set-cookie'] ?? []
    if (cookie !== undefined) this.#cookie = cookie.split(';', 1)[0]!
    return JSON.parse(answer.body) as Page
  }

  async visit(ms: number): Promise<void> {
    const page = await this.page(`/visit/${ms}`)
    if (page.user !== this.name) this.logouts++
    this.visits++
    if (page.visits !== this.visits || page.last !== this.visits)
      this.wrong.push(`visit ${this.visits} was told to be ${page.visits}, last ${page.last}`)
    this.pages.push({ generation: page.generation, at: performance.timeOrigin + performance.now() })
  }
}

async function service() {
  const scene = Scene.open()
  const url = `http://127.0.0.1:${await freePort()}`
  const journal = scene.file('journal')
  const config = { control: scene.control, url: url.replace('http', 'tcp'), journal }
  const start = () =>
    scene.serve({}, { command: [APP], env: { STORES: JSON.stringify(config), NODE_ENV: 'development' } })
  return { scene, url, start, journal: () => wholeLines(journal) }
}

describe('sessions and a key-value store in the state', () => {
  it.runIf(NIGHTLY)(
    'over upgrades log nobody out, lose no change, and what runs once is never done by two',
    async () => {
      const { url, start, journal } = await service()
      const apps = [await start()]
      const browsers = Array.from({ length: BROWSERS }, (_, n) => new Browser(url, `user-${n}`))
      await Promise.all(browsers.map(browser => browser.page(`/login/${browser.name}`)))
      let running = true
      const failures: string[] = []
      const done = Promise.all(
        browsers.map(async (browser, n) => {
          while (running) await browser.visit(((n * 17 + browser.visits * 31) % 9) * 10)
        }),
      ).catch(error => void failures.push(`${error}\n${apps.at(-1)!.output}`))
      for (let upgrade = 0; upgrade < perLane(2, 10); upgrade++) {
        const before = browsers.map(({ visits }) => visits)
        const haveCome = () => {
          // After a failure a browser comes no more.
          expect(failures).toEqual([])
          return browsers.every(({ visits }, n) => visits > before[n]! + 5)
        }
        await until('each browser has come some times', haveCome, BUSY_MS)
        const next = await start()
        await apps.at(-1)!.end(BUSY_MS)
        apps.push(next)
      }
      running = false
      await done
      expect(failures).toEqual([])
      expect(browsers.flatMap(({ wrong }) => wrong)).toEqual([])
      expect(browsers.reduce((sum, { logouts }) => sum + logouts, 0)).toBe(0)
      // Changes of a process that had been replaced.
      const byOlder = browsers
        .flatMap(({ pages }) => pages)
        .filter(({ generation, at }) => at > (apps[generation]?.find('serving')?.at ?? at))
      expect(byOlder.length).toBeGreaterThan(0)
      const first = browsers[0]!
      expect(await first.page('/')).toMatchObject({ early: 'made before there was a member' })
      // Logged out in one process is logged out in all.
      await first.page('/logout')
      const next = await start()
      await apps.at(-1)!.end(BUSY_MS)
      for (let connection = 0; connection < 2; connection++)
        expect(await first.page('/')).toMatchObject({ user: null })
      next.signal('SIGTERM')
      await next.end()
      const order = [...apps, next].flatMap(({ pid }) => [`start ${pid}`, `stop ${pid}`])
      expect(journal()).toEqual(order)
    },
  )
})
