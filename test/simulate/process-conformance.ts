import { constants } from 'node:os'
import type { Native } from '../../src/kernel/native.js'
import { randomOf } from './random.js'

const CALLS = 30
const { SIGCONT, SIGKILL, SIGSTOP, SIGTERM, SIGUSR2 } = constants.signals
const SIGNALS = [0, SIGTERM, SIGSTOP, SIGCONT, SIGKILL, SIGUSR2]

/** The scripts that children run: they wait until a signal ends them, or exit with a code. */
export const SCRIPTS: Readonly<Record<string, string>> = {
  waits: 'exec sleep 600',
  exits: 'exit 3',
  succeeds: 'exit 0',
}

/** The functions of Node and of the addon that the calls are made to, or those of the simulation. */
export interface ProcessCalls {
  readonly addon: Pick<
    Native,
    'close' | 'endedChild' | 'pidfdDead' | 'pidfdOpen' | 'pidfdPid' | 'pidfdSignal' | 'reapChild' | 'spawn'
  >
  /** The program that runs a script. */
  readonly shell: string
  /** The folder of the {@link SCRIPTS}. */
  readonly folder: string
  kill(pid: number, signal: number): void
  /** Resolves when a child has begun to run its script, or the signals sent to it have taken effect. */
  settled(pid: number, script: string): Promise<void>
}

interface StartedChild {
  readonly pid: number
  readonly script: string
  isReaped: boolean
}

function words(texts: readonly string[]): Buffer {
  return Buffer.from(texts.map(text => `${text}\0`).join(''))
}

/** Starts, signals, watches and reaps children by random calls, the same for each implementation, and returns the calls with their results. */
export async function randomProcessCalls(seed: number, calls: ProcessCalls): Promise<string[]> {
  const { addon, folder, shell } = calls
  const random = randomOf(seed)
  const below = (n: number) => Math.floor(random() * n)
  const all: StartedChild[] = []
  const pidfds: number[] = []
  const lines: string[] = []
  /** Pids differ: children are shown by the order of their start. */
  const shown = (pid: number) => {
    const at = all.findIndex(child => child.pid === pid && !child.isReaped)
    return at < 0 ? 'none' : `child ${at}`
  }

  function call(text: string, act: () => unknown): void {
    let result: unknown
    try {
      result = act()
    } catch (error) {
      result = (error as NodeJS.ErrnoException).code
    }
    lines.push(`${text} = ${JSON.stringify(result ?? null)}`)
  }

  async function start(): Promise<void> {
    const script = Object.keys(SCRIPTS)[below(3)]!
    const [file, cwd] = [
      below(10) === 0 ? `${folder}/missing` : shell,
      below(10) === 0 ? `${folder}/none` : '',
    ]
    const before = all.length
    call(`spawn(${script}, ${file === shell}, ${cwd === ''})`, () => {
      const pid = addon.spawn(words([file, cwd, 'sh', `${folder}/${script}`]), words([]), -1, [], SIGKILL)
      all.push({ pid, script, isReaped: false })
      return shown(pid)
    })
    const started = all[before]
    if (started !== undefined) await calls.settled(started.pid, script)
  }

  /** A pid that is free may soon belong to another process: it is used at once, or never. */
  function reap(at: number): void {
    const child = all[at]!
    const { pid } = child
    call(`reapChild(${at})`, () => {
      const status = addon.reapChild(pid)
      child.isReaped = status !== null
      return status
    })
    if (!child.isReaped) return
    call(`reapChild(${at}) again`, () => addon.reapChild(pid))
    call(`kill(${at}, 0)`, () => calls.kill(pid, 0))
    call(`kill(-${at}, 0)`, () => calls.kill(-pid, 0))
    call(`pidfdOpen(${at})`, () => addon.pidfdOpen(pid))
  }

  await start()
  for (let i = 0; i < CALLS; i++) {
    const living = all.flatMap((child, at) => (child.isReaped ? [] : [at]))
    const [at, signal, watched] = [living[below(living.length)], SIGNALS[below(6)]!, below(pidfds.length)]
    const pidfd = pidfds[watched]
    const what = below(9)
    if (at === undefined || what === 0) {
      await start()
      continue
    }
    const { pid, script } = all[at]!
    if (what === 1 || what === 2) {
      const group = below(3) === 0
      call(`kill(${group ? '-' : ''}${at}, ${signal})`, () => calls.kill(group ? -pid : pid, signal))
      await calls.settled(pid, script)
    } else if (what === 3) call(`pidfdOpen(${at})`, () => `pidfd ${pidfds.push(addon.pidfdOpen(pid)!) - 1}`)
    else if (what === 4) reap(at)
    else if (what === 5) call('endedChild()', () => shown(addon.endedChild()))
    else if (pidfd === undefined) continue
    else if (what === 6) {
      call(`pidfdSignal(${watched}, ${signal})`, () => addon.pidfdSignal(pidfd, signal))
      for (const each of all) if (!each.isReaped) await calls.settled(each.pid, each.script)
    } else if (what === 7) call(`pidfdPid(${watched})`, () => shown(addon.pidfdPid(pidfd)))
    else call(`pidfdDead(${watched})`, () => addon.pidfdDead(pidfd))
  }
  for (const child of all.filter(({ isReaped }) => !isReaped)) {
    calls.kill(child.pid, SIGKILL)
    await calls.settled(child.pid, child.script)
    addon.reapChild(child.pid)
  }
  for (const pidfd of pidfds) addon.close(pidfd)
  return lines
}
