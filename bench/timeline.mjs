// @ts-check
// The picture of an upgrade that the demo leaves: the page of `fd-broker upgrade --timeline`, with what the clients saw.
import { readFileSync, writeFileSync } from 'node:fs'
import { statusAt } from '../build/modules/operator/client.js'
import { timelinePage } from '../build/modules/timeline/page.js'
import { TimelineRecorder } from '../build/modules/timeline/recorder.js'

const SCRIPT = new URL('../dist/timeline.cjs', import.meta.url)
/** Shorter than what is measured: how long a connection takes to move. */
const EVERY_MS = 50
const AROUND_MS = 1_000

/**
 * Records an upgrade from now on.
 * @param {string} control
 * @param {{ snapshot: () => { span: import('./referee/load.mjs').Span | null } | null }} load
 */
export function recordTimeline(control, load) {
  return TimelineRecorder.start({
    service: control,
    everyMs: EVERY_MS,
    aroundMs: AROUND_MS,
    status: () => statusAt(control, 1_000).catch(() => undefined),
    clients: () => load.snapshot()?.span ?? null,
  })
}

/** @param {TimelineRecorder} recorder @param {string} path @param {import('../build/modules/timeline/timeline.js').TimelineOutcome} outcome */
export async function writeTimeline(recorder, path, outcome) {
  writeFileSync(path, timelinePage(readFileSync(SCRIPT, 'utf8'), await recorder.finish(outcome, 0)))
}
