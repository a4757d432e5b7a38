import { Agent } from 'node:http'
import { onTestFinished } from 'vitest'
import { ask } from './client.js'
import { pause } from './until.js'

/** The samples of an OpenMetrics text, by name and labels as they are written. */
export function samplesOf(text: string): Map<string, number> {
  const samples = new Map<string, number>()
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue
    const end = line.lastIndexOf(' ')
    samples.set(line.slice(0, end), Number(line.slice(end + 1)))
  }
  return samples
}

/** The sum of the samples whose name is `name`, and whose labels contain `labels`. */
export function sumOf(samples: ReadonlyMap<string, number>, name: string, labels = ''): number {
  let sum = 0
  for (const [key, value] of samples)
    if ((key === name || key.startsWith(`${name}{`)) && key.includes(labels)) sum += value
  return sum
}

const COUNTS = /_(?:total|bucket|count|sum)(?:\{|$)/

/** Asks for the metrics again and again, as Prometheus does, on one connection; ends with the test. */
export class Scraping {
  readonly url: string
  readonly #agent: Agent | null
  readonly #fallen: string[] = []
  #last = new Map<string, number>()
  #ended = false
  readonly #running: Promise<void>
  scrapes = 0

  /** Without an agent each scrape has a connection of its own. */
  constructor(
    url: string,
    everyMs: number,
    agent: Agent | null = new Agent({ keepAlive: true, maxSockets: 1 }),
  ) {
    this.url = url
    this.#agent = agent
    this.#running = this.#run(everyMs)
    this.#running.catch(() => {})
    onTestFinished(() => {
      this.#ended = true
      this.#agent?.destroy()
    })
  }

  async once(): Promise<ReadonlyMap<string, number>> {
    const { status, body } = await ask(this.url, this.#agent ? { agent: this.#agent } : {}).answer
    if (status !== 200 || !body.endsWith('# EOF\n')) throw new Error(`${status}: ${body}`)
    this.scrapes++
    const samples = samplesOf(body)
    for (const [key, before] of this.#last) {
      if (!COUNTS.test(key)) continue
      const now = samples.get(key)
      if (now === undefined || now < before) this.#fallen.push(`${key}: ${before}, then ${now}`)
    }
    this.#last = samples
    return samples
  }

  /** Ends it. Rejects if a scrape has failed; returns the counts that have fallen, or have gone. */
  async stop(): Promise<readonly string[]> {
    this.#ended = true
    await this.#running
    return this.#fallen
  }

  async #run(everyMs: number): Promise<void> {
    while (!this.#ended) {
      await this.once()
      await pause(everyMs)
    }
  }
}
