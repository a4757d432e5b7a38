import { Agent, type IncomingHttpHeaders, request } from 'node:http'
import { expect } from 'vitest'
import type { Request } from '../../bench/referee/workload.mjs'
import { wrong } from '../../bench/referee/workload.mjs'
import { until } from '../processes/until.js'
import type { AutoProgram, By } from './auto-program.js'

/** A client's request. */
export interface Question {
  readonly path: string
  readonly method?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
}

/** An answer as it is with and without fd-broker: but for its date. */
export interface Answered {
  readonly question: string
  readonly status: string
  readonly headers: IncomingHttpHeaders
  readonly body: string
}

/** A process that has been replaced has so long to end, and the standby before it. */
const ENDS_MS = 10_000

export const JSON_BODY = { 'content-type': 'application/json' }

/** The answers to these, all on one connection. */
export async function answersOf(url: string, questions: readonly Question[]): Promise<Answered[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const answers: Answered[] = []
  for (const question of questions) answers.push(await answerTo(url, question, agent))
  agent.destroy()
  return answers
}

function answerTo(url: string, question: Question, agent: Agent): Promise<Answered> {
  const { path, method = 'GET', headers = {}, body = '' } = question
  const length = body === '' ? {} : { 'content-length': Buffer.byteLength(body) }
  return new Promise((resolve, reject) => {
    const asked = request(
      `${url}${path}`,
      { method, agent, headers: { ...headers, ...length } },
      response => {
        let text = ''
        response.setEncoding('utf8').on('data', chunk => (text += chunk))
        response.once('error', reject)
        response.once('end', () => {
          const { date: _, ...others } = response.headers
          resolve({
            question: `${method} ${path}`,
            status: `${response.statusCode} ${response.statusMessage}`,
            headers: others,
            body: text,
          })
        })
      },
    )
    asked.once('error', reject)
    asked.end(body)
  })
}

/** The plain GETs that were answered 200, as requests of a load that wants the same body. */
function asRequests(questions: readonly Question[], answers: readonly Answered[]): Request[] {
  return answers
    .filter(
      ({ question, status }, n) =>
        question.startsWith('GET ') && status.startsWith('200 ') && !questions[n]!.headers,
    )
    .map(({ question, body }) => ({
      method: 'GET',
      path: question.slice('GET '.length),
      check: answer =>
        answer.status === 200 && Buffer.from(answer.body, 'latin1').toString() === body
          ? null
          : wrong(`${question}: ${answer.status} ${JSON.stringify(answer.body.slice(0, 80))}`),
    }))
}

/** The answers that a program gives without fd-broker. */
export async function recordPlain(program: AutoProgram, questions: readonly Question[]): Promise<Answered[]> {
  await program.launch('nothing')
  await until(
    `${program.url} answers`,
    () =>
      fetch(program.url, { headers: { connection: 'close' } })
        .then(({ ok }) => ok)
        .catch(() => false),
    30_000,
    () => program.output,
  )
  const answers = await answersOf(program.url, questions)
  program.sandbox.signal('SIGKILL')
  await processesLeft(program, 0)
  return answers
}

/** Waits until so many of its processes are alive. */
export async function processesLeft(program: AutoProgram, count: number): Promise<void> {
  await until(
    `${count} of its processes are alive`,
    () => program.sandbox.processes().length === count,
    ENDS_MS,
    () => `${program.sandbox.processes().join('\n')}\n${program.output}`,
  )
}

/** A program answers under fd-broker/auto as without it, also after upgrades under load, in which no request is lost. Then one process is alive. */
export async function upgradedAndAlike(
  program: AutoProgram,
  options: {
    readonly by?: By
    readonly questions: readonly Question[]
    readonly upgrades?: number
    readonly rate?: number
  },
): Promise<void> {
  const { by = 'import', questions, upgrades = 5, rate = 200 } = options
  const wanted = await recordPlain(program, questions)
  await program.serve(by)
  expect(await answersOf(program.url, questions)).toEqual(wanted)
  await program.upgradedUnderLoad(by, { upgrades, rate, others: asRequests(questions, wanted) })
  expect(await answersOf(program.url, questions)).toEqual(wanted)
  await processesLeft(program, 1)
}
