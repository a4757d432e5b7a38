// @ts-check
// The picture of an upgrade that the demo leaves: the page of `fd-broker upgrade --timeline`, with what the clients saw.
import { readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { statusAt } from '../build/modules/operator/client.js'
import { timelinePage } from '../build/modules/timeline/page.js'
import { TimelineBuilder } from '../build/modules/timeline/timeline.js'

const SHELL = new URL('../dist/timeline.html', import.meta.url)
/** Shorter than what is measured: how long a connection takes to move. */
const EVERY_MS = 50
/** The time before the upgrade that the page shows, and after it. */
const AROUND_MS = 1_000

/**
 * Records an upgrade from now on.
 * @param {string} control
 * @param {{ snapshot: () => { span: import('./referee/load.mjs').Span | null } | null }} load
 */
export async function recordTimeline(control, load) {
  const builder = new TimelineBuilder(control, Date.now() + AROUND_MS)
  /** @type {import('./referee/load.mjs').Span[]} */
  const clients = []
  let recording = true
  const asking = (async () => {
    while (recording) {
      const status = await statusAt(control, 1_000).catch(() => null)
      if (status !== null) builder.sample(Date.now(), status)
      const span = load.snapshot()?.span ?? null
      if (span !== null && span.at !== clients.at(-1)?.at) clients.push(span)
      await sleep(EVERY_MS)
    }
  })()
  await sleep(AROUND_MS)
  return {
    /** @param {string} path @param {import('../build/modules/timeline/timeline.js').TimelineOutcome} outcome */
    async finish(path, outcome) {
      await sleep(AROUND_MS)
      recording = false
      await asking
      writeFileSync(
        path,
        timelinePage(readFileSync(SHELL, 'utf8'), builder.build(outcome, Date.now(), clients)),
      )
    },
  }
}
