import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import { endMarked } from './marked.js'
import { until } from './until.js'

const FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--ignore-certificate-errors']
const ENDPOINT = /^DevTools listening on ws:\/\/([^/]+)\//m

/** A message of the DevTools protocol: an answer, or an event. */
interface Message {
  readonly id?: number
  readonly method?: string
  readonly error?: object
  readonly result?: { readonly result?: { readonly value?: unknown }; readonly exceptionDetails?: object }
}

/** A page in a Chromium without a window, driven by the DevTools protocol. The browser ends with the test. */
export class Page {
  readonly #devTools: WebSocket
  #asked = 0

  private constructor(devTools: WebSocket) {
    this.#devTools = devTools
  }

  /** Resolves when the browser has loaded the page. Any certificate will do. */
  static async open(url: string, ms: number): Promise<Page> {
    const [folder, mark] = [mkdtempSync(join(tmpdir(), 'fdb-browser-')), randomUUID()]
    const browser = spawn(
      'chromium',
      [...FLAGS, '--remote-debugging-port=0', `--user-data-dir=${folder}`, 'about:blank'],
      // Files of its own in the temporary folder stay when it is killed.
      { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, TMPDIR: folder, FDB_TEST_SCENE: mark } },
    )
    onTestFinished(async () => {
      await endMarked(mark)
      // Some of its processes, whose environment Chromium overwrites, end a moment later and still write there.
      rmSync(folder, { recursive: true, force: true, maxRetries: 20 })
    })
    let said = ''
    browser.stderr.setEncoding('utf8').on('data', (chunk: string) => (said += chunk))
    const host = await until(
      'the browser listens',
      () => ENDPOINT.exec(said)?.[1],
      ms,
      () => said,
    )
    const devTools = new WebSocket(await until('the browser has a page', () => pageOf(host), ms))
    onTestFinished(() => devTools.terminate())
    await once(devTools, 'open')
    const page = new Page(devTools)
    await page.#ask('Page.enable')
    const loaded = page.#message(({ method }) => method === 'Page.loadEventFired')
    await page.#ask('Page.navigate', { url })
    await loaded
    return page
  }

  /** Resolves with the value of an expression in the page. */
  async evaluate(expression: string): Promise<unknown> {
    const { result, error } = await this.#ask('Runtime.evaluate', { expression, returnByValue: true })
    const fault = error ?? result?.exceptionDetails
    if (fault !== undefined) throw new Error(JSON.stringify(fault))
    return result?.result?.value
  }

  async #ask(method: string, params: object = {}): Promise<Message> {
    const id = ++this.#asked
    const answer = this.#message(message => message.id === id)
    this.#devTools.send(JSON.stringify({ id, method, params }))
    return await answer
  }

  /** Resolves with the next message that `fits`; rejects if the browser ends before. */
  #message(fits: (message: Message) => boolean): Promise<Message> {
    return new Promise((resolve, reject) => {
      const end = () => reject(new Error('the browser has ended'))
      const read = (data: unknown) => {
        const message = JSON.parse(String(data)) as Message
        if (!fits(message)) return
        this.#devTools.off('message', read).off('close', end)
        resolve(message)
      }
      this.#devTools.on('message', read).on('close', end)
    })
  }
}

/** The address by which a page is driven. */
async function pageOf(host: string): Promise<string | undefined> {
  const targets = (await (await fetch(`http://${host}/json/list`)).json()) as readonly {
    type: string
    webSocketDebuggerUrl: string
  }[]
  return targets.find(({ type }) => type === 'page')?.webSocketDebuggerUrl
}
