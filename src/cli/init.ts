import {
  chmodSync,
  chownSync,
  type Dirent,
  existsSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { serviceName } from '../auto/settings.js'
import { jsonValue } from '../base/json.js'
import { thisFile } from '../base/lazy.js'
import { isFile } from '../checks/files.js'
import { wrongOption } from '../checks/place.js'
import { FdbError } from '../errors.js'
import type { Command } from './command.js'
import { plain, style, writeStderr } from './output.js'

interface InitFlags {
  entry?: string
  yes?: true
}

export function addInit(program: Command): void {
  program
    .command('init')
    .description(
      'show what fd-broker would add to an application’s package.json, and write it after confirmation',
    )
    .argument('[folder]', 'folder of the application', '.')
    .option('--entry <file>', 'script that starts the application; default: from package.json')
    .option('--yes', 'write without asking')
    .notes(`init never changes your sources. It names lines that could cause surprises in an upgrade. Without a terminal it cannot ask: it shows the
change, writes nothing and exits with 2, unless --yes is given.`)
    .examples('fd-broker init', 'fd-broker init --entry src/server.js --yes')
    .action(init)
}

async function init(folder: string, { entry, yes }: InitFlags): Promise<void> {
  const plan = planOf(resolve(folder), entry)
  process.stdout.write(planText(plan))
  if (plan.isEmpty) process.exitCode = 1
  if (plan.change === null) return
  const { file, text } = plan.change
  if (!yes && (!process.stdin.isTTY || !process.stdout.isTTY)) {
    writeStderr('nothing was written, because there is no terminal to ask on: give --yes to write this')
    process.exitCode = 2
    return
  }
  if (!yes && !(await confirm())) {
    process.stdout.write('nothing was written\n')
    return
  }
  replaceFile(file, text)
  process.stdout.write(`${file} was written. Next:\n${plan.next.map(line => `  $ ${line}\n`).join('')}`)
}

/** Writes a file aside first: on a full disk the present one stays. Throws ERR_FDB_OPTION. */
function replaceFile(path: string, text: string): void {
  const real = realpathSync(path)
  const aside = `${real}.${process.pid}~`
  try {
    const { gid, mode, uid } = statSync(real)
    writeFileSync(aside, text, { flag: 'wx' })
    if (process.geteuid?.() === 0) chownSync(aside, uid, gid)
    chmodSync(aside, mode & 0o777)
    renameSync(aside, real)
  } catch (cause) {
    rmSync(aside, { force: true })
    throw new FdbError('ERR_FDB_OPTION', `${path} cannot be written (${(cause as Error).message})`, { cause })
  }
}

function planText({ found, notes, change, reason }: InitPlan): string {
  const lines = found.map(([name, value]) => `${style('bold', name)}: ${plain(value)}`)
  const surprises = notes.map(
    ({ location: place, note }) => `${style('yellow', 'note')}  ${plain(place)}: ${note}`,
  )
  const coloured = (line: string) =>
    line.startsWith('+') ? style('green', line) : line.startsWith('-') ? style('red', line) : line
  const rest = change === null ? [reason] : change.difference.map(coloured)
  return `${[...lines, ...surprises, '', ...rest].join('\n')}\n`
}

/** Asks on the terminal whether to write. */
async function confirm(): Promise<boolean> {
  const { createInterface } = await import('node:readline')
  const lines = createInterface({ input: process.stdin, output: process.stdout })
  return await new Promise(resolve => {
    // Ctrl-C and Ctrl-D close the input without an answer.
    lines.once('close', () => {
      process.stdout.write('\n')
      resolve(false)
    })
    lines.question('Write this? [y/N] ', answer => {
      lines.removeAllListeners('close')
      lines.close()
      resolve(/^y(?:es)?$/i.test(answer.trim()))
    })
  })
}

/** The findings of `fd-broker init`, and the text it would write. */
interface InitPlan {
  readonly found: readonly (readonly [name: string, value: string])[]
  /** Code that may misbehave during an upgrade. */
  readonly notes: readonly Note[]
  /** Null if nothing needs to change; `reason` says why. */
  readonly change: {
    readonly file: string
    readonly text: string
    readonly difference: readonly string[]
  } | null
  readonly reason: string
  /** Whether there is neither a script nor a command that starts the application. */
  readonly isEmpty?: true
  readonly next: readonly string[]
}

interface Note {
  readonly location: string
  readonly note: string
}

interface Manifest {
  readonly main?: unknown
  readonly scripts?: Readonly<Record<string, string>>
  readonly dependencies?: Readonly<Record<string, string>>
}

const AUTO = '--import fd-broker/auto'
/** The first of these names among the dependencies is reported. */
const FRAMEWORKS = [
  '@nestjs/core',
  'next',
  'nuxt',
  'fastify',
  'express',
  'koa',
  'hono',
  '@apollo/server',
  'graphql-yoga',
  'socket.io',
  'ws',
]
const ENTRIES = ['server', 'index', 'app', 'main', 'src/server', 'src/index', 'src/main', 'src/app']
const EXTENSIONS = ['js', 'mjs', 'cjs', 'ts']
/** Commands that start and restart a program themselves. With them init changes nothing. */
const RESTARTING_TOOLS: readonly (readonly [pattern: RegExp, why: string])[] = [
  [/\bpm2\b/, 'pm2 starts it: docs/deploy.md shows how to use pm2 and fd-broker together'],
  [/\bnodemon\b|--watch\b|\bwatch\b|\bnext dev\b/, 'a watcher starts it, and restarts it after each edit'],
  [/\bfd-broker\b/, 'fd-broker starts it already'],
]
const SOURCE = /\.(?:[cm]?js|[cm]?ts)$/
const LEFT_OUT = /^(?:node_modules|dist|build|coverage|test|tests|public|\..*)$/
const MOST_FILES = 400
const MOST_NOTES = 12

const RUN_ONCE = 'runs in both versions during an upgrade: start it in runOnce() of fd-broker'
const RISKY_CODE: readonly (readonly [pattern: RegExp, note: string])[] = [
  [/\bcron\.schedule\(|\bnew CronJob\(|\bschedule\.scheduleJob\(|\bnew Agenda\(/, `a cron job ${RUN_ONCE}`],
  [/\bnew Worker\(\s*['"`]|\.consume\(\s*['"`]|\bconsumer\.run\(/, `a queue consumer ${RUN_ONCE}`],
  [/\bchokidar\.watch\(/, `a watcher ${RUN_ONCE}`],
  [/\bsetInterval\(/, `if this interval is a job, it ${RUN_ONCE}`],
  [
    /\bsession\(\s*\{(?![^}]*\bstore\b)/,
    'sessions in memory are lost with their process: store: sessionStore(session) of fd-broker/stores',
  ],
  [
    /\bcluster\.fork\(/,
    'workers of node:cluster are left as they are: fd-broker workers starts several processes',
  ],
]

/** Examines an application. Throws ERR_FDB_OPTION if the folder has no package.json, or the entry is missing. */
function planOf(folder: string, entry: string | undefined): InitPlan {
  const file = join(folder, 'package.json')
  const text = read(file, folder)
  const manifest = manifestIn(text, folder)
  const start = manifest.scripts?.start
  const script = entry ?? entryOf(folder, manifest)
  if (script !== null && !isFile(join(folder, script)))
    throw wrongOption('entry', script, `a file in ${folder}`)
  const own = script === null ? null : readIfAllowed(join(folder, script))
  const service = serviceName(join(folder, script ?? 'server.js'))
  const found = [
    ['framework', frameworkOf(manifest) ?? 'no known one: any server of Node works'],
    ['entry', script ?? 'not found'],
    ['start', start ?? 'package.json has no script "start"'],
    ['service', service],
  ] as const
  const plan = { found, notes: notesIn(folder), change: null, next: [] }
  if (own !== null && /\bjoin\(/.test(own) && /['"]fd-broker['"]/.test(own))
    return { ...plan, reason: `${script} calls join() already: nothing is needed` }
  const foreign = RESTARTING_TOOLS.find(([pattern]) => start !== undefined && pattern.test(start))
  if (foreign !== undefined) return { ...plan, reason: `${foreign[1]}: nothing is written` }
  if (start === undefined && script === null)
    return { ...plan, reason: 'there is nothing to start: name the script by --entry', isEmpty: true }
  const started = start === undefined ? `node ${AUTO} ${script}` : withAuto(start)
  const upgrade = `fd-broker upgrade --service ${service}`
  const changed = changedText(text, manifest, {
    start: started,
    ...(manifest.scripts?.upgrade === undefined && { upgrade }),
  })
  const difference = lineDifference(text, changed)
  const installed = manifest.dependencies?.['fd-broker'] !== undefined
  return {
    ...plan,
    change: { file, text: changed, difference },
    reason: '',
    next: [...(installed ? [] : [`npm install ${packageFor(folder)}`]), 'npm start', `npx ${upgrade}`],
  }
}

/** Returns this package as npm installs it in the folder: a clone by its path. Only a clone has the sources. */
function packageFor(folder: string): string {
  const root = dirname(dirname(thisFile()))
  if (!existsSync(join(root, 'src'))) return 'fd-broker'
  const path = relative(folder, root)
  // npm takes a name with a slash for a repository of GitHub.
  return path.startsWith('..') ? path : `./${path}`
}

function manifestIn(text: string, folder: string): Manifest {
  const wanted = 'a folder whose package.json is JSON'
  let manifest: unknown
  try {
    manifest = JSON.parse(text)
  } catch (error) {
    throw wrongOption('folder', folder, `${wanted} (${(error as Error).message})`)
  }
  if (typeof manifest === 'object' && manifest !== null && !Array.isArray(manifest)) return manifest
  throw wrongOption('folder', folder, `${wanted}, of one object`)
}

/** Returns '' for a file that this user may not read, as data of the application may be. */
function readIfAllowed(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}

function read(file: string, folder: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const wanted = 'a folder with a package.json: run this in the folder of your application'
    throw wrongOption(
      'folder',
      folder,
      code === 'ENOENT' ? wanted : `a folder whose package.json can be read (${code})`,
    )
  }
}

function frameworkOf({ dependencies = {} }: Manifest): string | null {
  const name = FRAMEWORKS.find(each => dependencies[each] !== undefined)
  return name === undefined ? null : `${name} ${dependencies[name]}`
}

function entryOf(folder: string, { main, scripts }: Manifest): string | null {
  const words = scripts?.start?.split(/\s+/) ?? []
  const files = ENTRIES.flatMap(name => EXTENSIONS.map(extension => `${name}.${extension}`))
  const mains = typeof main === 'string' ? [main, `${main}.js`, join(main, 'index.js')] : []
  const named = [...words.filter(word => SOURCE.test(word)), ...mains, ...files]
  return named.find(name => isFile(join(folder, name))) ?? null
}

/** A command of a shell's line, or what separates it from the next one. Quotes and parentheses stay whole. */
const PIECE = /(?:'[^']*'|"(?:\\.|[^"\\])*"|\([^()]*\)|\\.|(?!&&|\|\||;).)+|&&|\|\||;/gs
/** Commands that do not serve. */
const AFTERWARDS = /^\s*(?:(?:true|false|echo|printf|exit|sleep|wait|:)(?:\s|$)|$)/

/** Adds `auto` to a start command. If the line has several commands, adds it to the last one that may serve. A command after `||` runs only if the one before fails. */
function withAuto(start: string): string {
  const pieces = start.match(PIECE) ?? [start]
  const serves = (piece: string, at: number) =>
    at % 2 === 0 && !AFTERWARDS.test(piece) && (at === 0 || pieces[at - 1] !== '||')
  const at = Math.max(0, pieces.findLastIndex(serves))
  const [, space, command] = /^(\s*)(.*)$/s.exec(pieces[at]!)!
  return pieces.with(at, `${space}${commandWithAuto(command!)}`).join('')
}

function commandWithAuto(command: string): string {
  const node = /^((?:[A-Z_][A-Z0-9_]*=\S*\s+)*node)\s+(.*)$/s.exec(command)
  if (node !== null) return `${node[1]} ${AUTO} ${node[2]}`
  const variable = `NODE_OPTIONS='${AUTO}'`
  return /^[({]/.test(command) ? `export ${variable} && ${command}` : `${variable} ${command}`
}

/** Adds the scripts to the text of package.json. Changes only their lines if the file has the usual layout; otherwise formats the whole file. */
function changedText(text: string, manifest: Manifest, scripts: Readonly<Record<string, string>>): string {
  const wanted = { ...manifest, scripts: { ...manifest.scripts, ...scripts } }
  const before = manifest.scripts?.start
  if (before !== undefined) {
    const line = /^([ \t]*)"start"[ \t]*:[ \t]*("(?:[^"\\]|\\.)*")/m.exec(text)
    if (line !== null) {
      const [whole, indent] = line
      const made = Object.entries(scripts).map(pair => pair.map(word => JSON.stringify(word)).join(': '))
      const changed = text.replace(whole, () => `${indent}${made.join(`,\n${indent}`)}`)
      if (isDeepStrictEqual(jsonValue(changed), wanted)) return changed
    }
  }
  const indent = /^([ \t]+)"/m.exec(text)?.[1] ?? '  '
  return `${JSON.stringify(wanted, null, indent)}${text.endsWith('\n') ? '\n' : ''}`
}

const CONTEXT = 2

/** Returns the lines between the first and the last difference, with context. */
function lineDifference(before: string, after: string): string[] {
  const [old, now] = [before.split('\n'), after.split('\n')]
  let from = 0
  while (from < old.length && from < now.length && old[from] === now[from]) from++
  let left = 0
  const most = Math.min(old.length, now.length) - from
  while (left < most && old.at(-1 - left) === now.at(-1 - left)) left++
  const [oldEnd, nowEnd] = [old.length - left, now.length - left]
  return [
    '--- package.json',
    '+++ package.json',
    ...old.slice(Math.max(0, from - CONTEXT), from).map(line => ` ${line}`),
    ...old.slice(from, oldEnd).map(line => `-${line}`),
    ...now.slice(from, nowEnd).map(line => `+${line}`),
    ...old.slice(oldEnd, oldEnd + CONTEXT).map(line => ` ${line}`),
  ]
}

function notesIn(folder: string): Note[] {
  const notes: Note[] = []
  for (const file of sourcesIn(folder)) {
    const text = withoutOnceWork(readIfAllowed(file))
    for (const [pattern, note] of RISKY_CODE) {
      const at = pattern.exec(text)
      if (at === null) continue
      const line = text.slice(0, at.index).split('\n').length
      notes.push({ location: `${relative(folder, file)}:${line}`, note })
    }
  }
  return notes.slice(0, MOST_NOTES)
}

/** Returns the source with the arguments of `runOnce()` and `whileServing()` blanked: their work runs in one process only. */
function withoutOnceWork(text: string): string {
  let rest = text
  for (const { index, 0: call } of text.matchAll(/\b(?:runOnce|whileServing)\(/g)) {
    const from = index + call.length
    const to = endOfCall(text, from)
    rest = rest.slice(0, from) + rest.slice(from, to).replace(/./g, ' ') + rest.slice(to)
  }
  return rest
}

/** Returns the index after the parenthesis that closes the one before `from`; `from` if there is none. */
function endOfCall(text: string, from: number): number {
  let open = 1
  // Matches a string, a comment or a parenthesis: parentheses in strings and comments do not count.
  const token = /(['"`])(?:\\.|(?!\1)[^\\])*\1|\/\/.*|\/\*[\s\S]*?\*\/|[()]/g
  token.lastIndex = from
  for (let match = token.exec(text); match !== null; match = token.exec(text)) {
    if (match[0] === '(') open++
    else if (match[0] === ')' && --open === 0) return token.lastIndex
  }
  return from
}

/** Returns none for a folder that this user may not read. */
function entriesOf(folder: string): Dirent[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
  } catch {
    return []
  }
}

function sourcesIn(folder: string): string[] {
  const found: string[] = []
  const folders = [folder]
  for (let at = folders.shift(); at !== undefined && found.length < MOST_FILES; at = folders.shift()) {
    for (const entry of entriesOf(at)) {
      if (LEFT_OUT.test(entry.name)) continue
      const path = join(at, entry.name)
      if (entry.isDirectory()) folders.push(path)
      else if (entry.isFile() && SOURCE.test(entry.name)) found.push(path)
    }
  }
  return found.slice(0, MOST_FILES)
}
