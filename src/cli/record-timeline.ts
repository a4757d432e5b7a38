import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { requireAs } from '../base/lazy.js'
import { FdbError } from '../errors.js'
import { STATUS_ANSWER_MS } from '../operator/status-report.js'
import { type Drawing, timelinePage } from '../timeline/page.js'
import { TimelineRecorder } from '../timeline/recorder.js'
import type { TimelineOutcome } from '../timeline/timeline.js'
import { askStatus, type ServiceAddress } from './status-answer.js'

/** A version that drains reports each 250 ms. */
const EVERY_MS = 100
const AROUND_MS = 500
const SVG = /\.svg$/i
/** A program that opens such a file expects no page. */
const OTHER_PICTURE = /\.(png|pdf|jpe?g|gif|webp)$/i

/** Starts to record an upgrade for `--timeline`. Rejects with ERR_FDB_OPTION if its page cannot be written to `path`: before the upgrade, not after it. */
export async function recordTimeline(path: string, address: ServiceAddress): Promise<TimelineRecorder> {
  if (OTHER_PICTURE.test(path))
    throw new FdbError('ERR_FDB_OPTION', `--timeline writes HTML or SVG: ${path} must end with .html or .svg`)
  writePage(path, '')
  return await TimelineRecorder.start({
    service: address.service || address.control,
    everyMs: EVERY_MS,
    aroundMs: AROUND_MS,
    status: () => askStatus(address, STATUS_ANSWER_MS),
  })
}

/** Writes the page when no older version has a connection, after `mostMs` at the latest. Rejects with ERR_FDB_OPTION. */
export async function writeTimeline(
  recorder: TimelineRecorder,
  path: string,
  outcome: TimelineOutcome,
  mostMs: number,
): Promise<void> {
  const timeline = await recorder.finish(outcome, mostMs)
  const script = join(import.meta.dirname, 'timeline.cjs')
  writePage(
    path,
    SVG.test(path)
      ? (requireAs(script)(script) as Drawing).svgOf(timeline)
      : timelinePage(readFileSync(script, 'utf8'), timeline),
  )
}

function writePage(path: string, text: string): void {
  try {
    writeFileSync(path, text)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new FdbError('ERR_FDB_OPTION', `--timeline: the page cannot be written to ${path}: ${why}`)
  }
}
