/**
 * Preloaded (`node --require`) by the process that starts a successor, with inherited output: the successor must survive the end of
 * that terminal or pipe, and its last lines on stderr are the reason of a start that fails. A bundle of its own, without the library; the
 * program that the user starts has none of this.
 */
import { writeFileSync } from 'node:fs'
import { inspect } from 'node:util'
import { isMainThread } from 'node:worker_threads'
import { dropWrites } from './dropped-writes.js'
import { beginOutput, counter } from './inherited-output.js'
import { LAST_LINES, OWN_OPTIONS } from './started-with.js'

/** Of the last lines. */
const MOST_CHARACTERS = 4_000

const file = process.env[LAST_LINES]
const given = process.env[OWN_OPTIONS]
// What this process starts is no successor.
delete process.env[LAST_LINES]
delete process.env[OWN_OPTIONS]
if (file !== undefined) {
  if (given === undefined) delete process.env.NODE_OPTIONS
  else process.env.NODE_OPTIONS = given
  if (isMainThread) begin(file)
}
// In the threads of a successor too: loggers write there.
const dropped = counter()
if (dropped !== null) dropWrites(dropped)

function begin(file: string): void {
  const output = beginOutput()
  const drop = counter()!
  const remember = (text: string) => {
    if (output.lines !== null) output.lines = (output.lines + text).slice(-MOST_CHARACTERS)
  }
  watch('stdout', drop)
  watch('stderr', drop, remember)
  process.on('uncaughtExceptionMonitor', error => remember(`\n${inspect(error)}\n`))
  process.on('exit', () => {
    if (output.lines === null || output.lines.trim() === '') return
    try {
      // The process that waits for it has made it, and removes it when nothing is waited for.
      writeFileSync(file, output.lines, { flag: 'r+' })
    } catch {
      // The lines are on stderr too.
    }
  })
}

/** The stream is made when the program asks for it, as without this. */
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
        // With a listener an error ends nothing.
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
