import { join } from 'node:path'
import { ProgramStart } from '../../src/cli/start.js'
import { ExitReason } from '../../src/versions/exit-reason.js'
import type { Successor } from '../../src/versions/spawn-successor.js'
import { askedService } from './asked-service.js'
import { until } from './until.js'

/** The program. */
export const PID = 1_000_001

/** A program that has not served in time. `answers`: what the service says, in the order of the questions. */
export async function lateStart(answers: readonly object[]) {
  const { control, questions } = await askedService()
  let isEnded = false
  const child: Successor = {
    pid: PID,
    exitReason: new ExitReason(control),
    exited: new Promise(() => {}),
    end: async () => (isEnded = true),
    release() {},
    unref() {},
    orphan() {},
  }
  const log = join(control, 'no.log')
  const start = new ProgramStart('shop.mjs', child, { control, ready: 'listen', log })
  const outcome = start.late(60_000).catch(error => error)
  for (const [at, answer] of answers.entries()) {
    const question = await until('the service is asked', () => questions[at])
    question(answer as { readonly pid: number })
  }
  return { outcome: await outcome, isEnded }
}
