/**
 * Preloaded (`node --require`) into a successor that writes to the terminal or pipe of the process that started it. Keeps the successor
 * alive when the terminal is closed, and stores its last stderr lines, which explain a failed start. Bundled alone, without the library.
 * Never loaded into a program that the user starts.
 */
import fs, { writeFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { inspect } from 'node:util'
import { runInThisContext } from 'node:vm'
import { isMainThread } from 'node:worker_threads'
import { beginOutput, counter, LAST_LINES, OWN_OPTIONS } from '../base/successor-output.js'

/** Maximum number of characters of the stored stderr lines. */
const MOST_CHARACTERS = 4_000
/** An uncaught error is cut to these limits: its first lines name the cause. */
const ERROR_LINES = 16
const ERROR_CHARACTERS = 1_500
/** Errors of writes to a closed terminal, and to a pipe or socket without a reader. */
const GONE: readonly unknown[] = ['EIO', 'EPIPE', 'ECONNRESET']
const OUTPUTS: readonly unknown[] = [1, 2]

const file = process.env[LAST_LINES]
const given = process.env[OWN_OPTIONS]
// Children are not successors: they must not get the variables.
delete process.env[LAST_LINES]
delete process.env[OWN_OPTIONS]
if (file !== undefined) {
  if (given === undefined) delete process.env.NODE_OPTIONS
  else process.env.NODE_OPTIONS = given
  if (isMainThread) keepOutput(file)
}
// Worker threads too: loggers write there.
const dropped = counter()
if (dropped !== null) dropWrites(dropped)

function keepOutput(file: string): void {
  const output = beginOutput()
  const drop = counter()!
  const remember = (text: string) => {
    if (output.lines !== null) output.lines = (output.lines + text).slice(-MOST_CHARACTERS)
  }
  watch('stdout', drop)
  watch('stderr', drop, remember)
  process.on('uncaughtExceptionMonitor', error => {
    addPlace(error)
    const first = inspect(error).split('\n').slice(0, ERROR_LINES).join('\n')
    remember(`\n${first.slice(0, ERROR_CHARACTERS)}\n`)
  })
  process.on('exit', () => {
    if (output.lines === null || output.lines.trim() === '') return
    try {
      // `r+` fails if the file is missing: the starting process created it, and removes it when it no longer waits.
      writeFileSync(file, output.lines, { flag: 'r+' })
    } catch {
      // The lines are on stderr as well.
    }
  })
}

/** Matches a stack frame outside of Node's own code. A module with a syntax error has none, because it has not run. */
const PROGRAM_FRAME = /\n {4}at (?!.*(?:node:|<anonymous>))/
const RETHROWN = Symbol.for('fd-broker.rethrown')

/**
 * Adds file, line and source to the stack of a syntax error in an ES module, as Node does when it prints the error. V8 stores them in the
 * error, and `vm` adds them to the stack when the error is thrown again. An error of JSON.parse() does not have them.
 */
function addPlace(error: Error): void {
  if (!(error instanceof SyntaxError) || /\bJSON\b/.test(error.message)) return
  const { stack = '' } = error
  if (!stack.startsWith('SyntaxError') || PROGRAM_FRAME.test(stack)) return
  const shared = globalThis as { [RETHROWN]?: unknown }
  shared[RETHROWN] = error
  try {
    runInThisContext(`throw globalThis[Symbol.for('fd-broker.rethrown')]`, { filename: 'fd-broker:rethrown' })
  } catch {
    if (error.stack?.startsWith('fd-broker:')) error.stack = stack
  } finally {
    delete shared[RETHROWN]
  }
}

/** Watches process.stdout or process.stderr. Wraps its getter, because the stream is created at the program's first use. */
function watch(name: 'stdout' | 'stderr', dropped: () => void, remember?: (text: string) => void): void {
  const own = Object.getOwnPropertyDescriptor(process, name)
  if (own?.get === undefined || !own.configurable) return
  let known = false
  Object.defineProperty(process, name, {
    ...own,
    get() {
      const stream: NodeJS.WriteStream = own.get!.call(process)
      if (!known) {
        known = true
        // With a listener an 'error' event does not end the process.
        stream.on('error', dropped)
        if (remember !== undefined) tap(stream, remember)
      }
      return stream
    },
  })
}

function tap(stream: NodeJS.WriteStream, remember: (text: string) => void): void {
  const write = stream.write
  stream.write = ((chunk: Uint8Array | string, ...rest: never[]) => {
    remember(typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString())
    return write.call(stream, chunk, ...rest)
  }) as typeof write
}

type FsWrite = (fd: unknown, ...rest: unknown[]) => unknown
type FsCallback = (error: unknown, bytes: number, data: unknown) => void

/**
 * Makes writes by `node:fs` to stdout or stderr succeed if the terminal or reader is gone, and reports each to `dropped`. Loggers write
 * in this way; at such an error pino, for example, ends the process or retries in a loop.
 */
function dropWrites(dropped: () => void): void {
  for (const name of ['writeSync', 'writevSync'] as const) {
    replace(name, write => (fd, ...rest) => {
      if (!OUTPUTS.includes(fd)) return write(fd, ...rest)
      try {
        return write(fd, ...rest)
      } catch (error) {
        if (!isGone(fd, error)) throw error
        dropped()
        return bytesOf(rest)
      }
    })
  }
  for (const name of ['write', 'writev'] as const) {
    replace(name, write => (fd, ...rest) => {
      const done = rest.at(-1)
      if (!OUTPUTS.includes(fd) || typeof done !== 'function') return write(fd, ...rest)
      const callback: FsCallback = (error, bytes, data) => {
        const drops = error !== null && isGone(fd, error)
        if (drops) dropped()
        ;(done as FsCallback)(drops ? null : error, drops ? bytesOf(rest) : bytes, data)
      }
      return write(fd, ...rest.slice(0, -1), callback)
    })
  }
  syncBuiltinESMExports()
}

function replace(
  name: 'write' | 'writeSync' | 'writev' | 'writevSync',
  by: (write: FsWrite) => FsWrite,
): void {
  const own = fs[name] as FsWrite
  const more = by(own)
  // Copies the symbols that `promisify` needs.
  Object.defineProperties(more, Object.getOwnPropertyDescriptors(own))
  Object.assign(fs, { [name]: more })
}

/** Whether a write failed because the terminal or reader is gone. False for files: the program must see errors of a disk. */
function isGone(fd: unknown, error: unknown): boolean {
  return (
    GONE.includes((error as NodeJS.ErrnoException).code) &&
    !fs.fstatSync(fd as number, { bigint: true }).isFile()
  )
}

/**
 * Returns the number of bytes that a call of `fs.write` should write. `args` after the descriptor: (text, position, encoding),
 * (bytes, offset, length), (bytes, { offset, length }), or of `writev` (list of bytes).
 */
function bytesOf([data, second, third]: readonly unknown[]): number {
  if (typeof data === 'string')
    return Buffer.byteLength(data, typeof third === 'string' ? (third as BufferEncoding) : 'utf8')
  if (Array.isArray(data)) return data.reduce((sum: number, part: Uint8Array) => sum + part.byteLength, 0)
  const { byteLength } = data as Uint8Array
  const [offset, length] =
    typeof second === 'object' && second !== null
      ? [(second as { offset?: unknown }).offset, (second as { length?: unknown }).length]
      : [second, third]
  if (typeof length === 'number') return length
  return typeof offset === 'number' ? byteLength - offset : byteLength
}
