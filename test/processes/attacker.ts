import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { SECOND_UID } from './second-user.js'

const ATTACKS = fileURLToPath(new URL('../fixtures/attacks.py', import.meta.url))

export interface AttackOptions {
  readonly uid?: number
  /** A service that the user may join. */
  readonly service?: string
  readonly seed?: number
  readonly seconds?: number
  /** The attacker's niceness: it should not take the processor from the daemon. */
  readonly nice?: number
}

/** Starts a process of another user that attacks a daemon in these ways. Resolves when the first attack has begun. */
export async function attack(
  control: string,
  attacks: readonly string[],
  { uid = SECOND_UID, service = 'demo', seed = 1, seconds = 30, nice = 0 }: AttackOptions = {},
): Promise<{ readonly pid: number; readonly ended: Promise<void>; stop(): void }> {
  const args = [ATTACKS, `${uid}`, control, service, `${seed}`, `${seconds}`, ...attacks]
  const child = spawn('nice', ['-n', `${nice}`, 'python3', ...args], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise<void>(resolve => child.once('exit', () => resolve()))
  onTestFinished(async () => {
    child.kill('SIGKILL')
    await ended
  })
  const lines = createInterface(child.stdout)
  await new Promise<void>((resolve, reject) => {
    lines.once('line', () => resolve())
    child.once('exit', () => reject(new Error('the attacker has ended before it began')))
  })
  return { pid: child.pid!, ended, stop: () => void child.kill('SIGKILL') }
}
