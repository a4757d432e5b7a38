import { type ChildProcess, spawn } from 'node:child_process'
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { hasEnded } from './launch.js'
import { until } from './until.js'

const INTO = [...(process.getuid?.() === 0 ? [] : ['--user', '--map-root-user'])]

/** Before a command: its process has an empty /run of its own, and so no service of the machine beside those of the test. */
export const WITH_EMPTY_RUN = [
  ...['unshare', ...INTO, '--mount'],
  ...['sh', '-c', 'mount -t tmpfs none /run && exec "$@"', 'sh'],
]

/** Before a command: its process runs on a machine that has booted again. `file` has the id of that boot. */
export const afterBoot = (file: string) => [
  ...['unshare', ...INTO, '--mount'],
  ...['sh', '-c', `mount --bind '${file}' /proc/sys/kernel/random/boot_id && exec "$@"`, 'sh'],
]

/** Before a command: its process does not see process `pid` in /proc. */
export const hiding = (pid: number) => [
  ...['unshare', ...INTO, '--mount'],
  ...['sh', '-c', `mount -t tmpfs none /proc/${pid} && exec "$@"`, 'sh'],
]

/** A PID namespace of its own, as a container has it, seen from outside. All of it ends with its first process. */
export class PidNamespace {
  /** Resolves with the exit code of its first process; of one that a signal ended with 128 and its number. */
  readonly exit: Promise<number>
  /** The first process: PID 1 inside. */
  readonly init: number

  private constructor(child: ChildProcess, init: number) {
    this.init = init
    this.exit = new Promise(resolve =>
      child.once('close', (code, signal) => resolve(code ?? (signal === 'SIGKILL' ? 137 : 128))),
    )
  }

  /** Appends the output to `log`. */
  static async start(
    command: readonly string[],
    { env, log }: { env: NodeJS.ProcessEnv; log: string },
  ): Promise<PidNamespace> {
    const output = openSync(log, 'a')
    const args = [...INTO, '--pid', '--fork', '--kill-child', '--mount-proc', ...command]
    const child = spawn('unshare', args, { env, stdio: ['ignore', output, output] })
    closeSync(output)
    const { pid = 0 } = child
    const init = await until('the namespace has its first process', () => {
      const [first] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ')
      return Number(first) || null
    })
    return new PidNamespace(child, init)
  }

  /** The processes in it: number outside by number inside. Zombies are in it too. */
  get processes(): Map<number, number> {
    const own = namespaceOf(this.init)
    const found = new Map<number, number>()
    for (const entry of readdirSync('/proc')) {
      const outside = Number(entry)
      if (!Number.isInteger(outside)) continue
      const inside = numberInside(outside)
      // A zombie's namespace cannot be read; its number has as many levels as the others'.
      const where = namespaceOf(outside)
      if (inside !== null && own !== null && (where === own || (where === null && hasEnded(outside))))
        found.set(inside, outside)
    }
    return found
  }

  /** The number outside. */
  outside(inside: number): number {
    const outside = this.processes.get(inside)
    if (outside === undefined) throw new Error(`there is no process ${inside} in the namespace`)
    return outside
  }

  signal(name: NodeJS.Signals, inside = 1): void {
    process.kill(inside === 1 ? this.init : this.outside(inside), name)
  }
}

function namespaceOf(pid: number): string | null {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`)
  } catch {
    return null
  }
}

/** In the innermost namespace; null: it is in this one. */
function numberInside(pid: number): number | null {
  try {
    const numbers =
      /^NSpid:\s+(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]?.split(/\s+/) ?? []
    return numbers.length > 1 ? Number(numbers.at(-1)) : null
  } catch {
    return null
  }
}
