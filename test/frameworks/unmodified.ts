import { readdirSync, readFileSync } from 'node:fs'
import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { AutoProgram, type ProgramOptions } from '../e2e/auto-program.js'
import { JSON_BODY, type Question } from '../e2e/auto-record.js'

/** A version that was replaced stands by so long; a retired one waits for its timers so long. */
const SOON = { FD_BROKER_PROBATION: '500ms', FD_BROKER_EXIT: '500ms' }
const CHAIR = JSON.stringify({ title: 'A chair' })
export const MISSING: Question = { path: '/missing' }
export const ADD: Question = { method: 'POST', path: '/articles', headers: JSON_BODY, body: CHAIR }
export const ARTICLES: readonly Question[] = [
  { path: '/articles/7' },
  { path: '/articles/8', headers: { accept: 'text/html' } },
  { method: 'HEAD', path: '/articles/7' },
  ADD,
  MISSING,
]

function textOf(path: string): string {
  return readFileSync(new URL(`apps/${path}`, import.meta.url), 'utf8')
}

/** An application of apps/ that knows nothing of fd-broker; `edit` gives it a line. */
export function unmodified(
  file: string,
  options: ProgramOptions,
  edit: (text: string) => string = text => text,
): Promise<AutoProgram> {
  const env = { ...SOON, ...options.env }
  return AutoProgram.of(edit(textOf(file)), `server${extname(file)}`, { ...options, env })
}

/** A folder of apps/ as a package, with a program of its `node_modules`. */
export async function unmodifiedFolder(
  folder: string,
  program: string,
  options: ProgramOptions,
): Promise<AutoProgram> {
  const made = await AutoProgram.of('', program, { ...options, env: { ...SOON, ...options.env } })
  made.write('package.json', JSON.stringify({ name: made.name, type: 'module' }))
  const files = readdirSync(fileURLToPath(new URL(`apps/${folder}`, import.meta.url)), {
    recursive: true,
    encoding: 'utf8',
  })
  for (const file of files.filter(file => extname(file) !== '')) made.write(file, textOf(`${folder}/${file}`))
  return made
}

/** Lines of a program's processes that are no complaint: of a replaced one that a timer kept or that has jobs, and of node-cron on a busy machine. */
const FINE = [
  /^fd-broker: process \d+ was replaced, and until it ends .* done twice: jobs of [\w-]+\. /,
  /^fd-broker: process \d+ no longer serves .* keeps? it alive: fd-broker ends it\. /,
  /\[NODE-CRON\].*\[WARN\].* missed execution at /,
]
/** The message of a process whose drain reached its limit. */
export const CUT = /^fd-broker: connections did not end in time and were closed$/

/** The output of the processes without such lines. */
export function unexpectedLines(program: Pick<AutoProgram, 'output'>, ...fine: readonly RegExp[]): string[] {
  return program.output
    .split('\n')
    .filter(line => line !== '' && ![...FINE, ...fine].some(pattern => pattern.test(line)))
}
