import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'

const FUZZ = fileURLToPath(new URL('../fixtures/second_user_fuzz.py', import.meta.url))

export interface FuzzOptions {
  readonly uid: number
  readonly control: string
  /** A service at which the user may have rights. */
  readonly service: string
  readonly seed: number
  readonly conversations: number
}

/** The kinds of descriptors and the messages that a user has sent, and how many conversations it could hold. */
export interface Fuzzed {
  readonly kinds: readonly string[]
  readonly messages: readonly string[]
  readonly held: number
  readonly refused: number
}

/** Starts a process of another user that holds conversations by a seed. Resolves when half of the conversations are over. Files and connections of the user stay until `leave()`. */
export async function fuzz(
  options: FuzzOptions,
): Promise<{ readonly done: Promise<Fuzzed>; leave(): Promise<void> }> {
  const { uid, control, service, seed, conversations } = options
  const args = [FUZZ, `${uid}`, control, service, `${seed}`, `${conversations}`]
  // The sanitizers' library is only for the daemon.
  const env = { ...process.env, LD_PRELOAD: '' }
  const child = spawn('python3', args, { stdio: ['pipe', 'pipe', 'inherit'], env })
  const closed = once(child, 'close')
  onTestFinished(async () => {
    child.kill('SIGKILL')
    await closed
  })
  const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
  const next = async () => {
    const { value, done } = await lines.next()
    if (done === true) throw new Error(`the fuzzer of seed ${seed} has ended`)
    return value as string
  }
  await next()
  const done = next().then(line => JSON.parse(line) as Fuzzed)
  done.catch(() => {})
  const leave = async () => {
    child.stdin.end()
    await closed
  }
  return { done, leave }
}
