import { readdirSync } from 'node:fs'
import { constants } from 'node:os'
import { hasEnded, signalPid } from './launch.js'
import { procText } from './proc-file.js'
import { until } from './until.js'

/** Whether a process has a handler of the signal. */
export function handles(pid: number, signal: 'SIGHUP' | 'SIGTERM' | 'SIGUSR2'): boolean {
  const [, caught = '0'] = /^SigCgt:\s+([0-9a-f]+)/m.exec(procText(pid, 'status')) ?? []
  return (BigInt(`0x${caught}`) >> BigInt(constants.signals[signal] - 1)) % 2n === 1n
}

/** Living processes, but for this one, that have `mark` in their environment: a test's own, whatever process started them. */
export function markedProcesses(mark: string): number[] {
  return readdirSync('/proc')
    .filter(entry => /^\d+$/.test(entry))
    .map(Number)
    .filter(pid => pid !== process.pid && procText(pid, 'environ').includes(mark) && !hasEnded(pid))
}

/** Ends them, by pid; those too that they start meanwhile. */
export async function endMarked(mark: string): Promise<void> {
  for (let round = 0; round < 3; round++) {
    const left = markedProcesses(mark)
    if (left.length === 0) return
    for (const pid of left) signalPid(pid, 'SIGKILL')
    await until(
      'every process of the test ends',
      () => left.every(hasEnded),
      5_000,
      () => left,
    )
  }
}
