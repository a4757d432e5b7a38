import { existsSync } from 'node:fs'
import type { Ran, Sandbox } from '../e2e/cli-processes.js'
import { PidNamespace } from './namespace.js'
import { until } from './until.js'

const USER = process.getuid?.() === 0 ? [] : ['--user', '--preserve-credentials']
/** Each pod has files of its own here; not where this project lies, nor the tests' folders. */
export const OWN_FILES = '/mnt'

/** As a pod of Kubernetes on a node whose network it shares: PID and mount namespaces of its own, beside those of other pods. */
export class Pod {
  readonly #sandbox: Sandbox
  readonly #namespace: PidNamespace

  private constructor(sandbox: Sandbox, namespace: PidNamespace) {
    this.#sandbox = sandbox
    this.#namespace = namespace
  }

  /** Starts a pod whose PID 1 is this command. */
  static async start(sandbox: Sandbox, command: readonly string[]): Promise<Pod> {
    const own = ['sh', '-c', `mount -t tmpfs none ${OWN_FILES} && exec "$@"`, 'sh']
    return new Pod(
      sandbox,
      await PidNamespace.start([...own, ...command], { env: sandbox.env, log: sandbox.log }),
    )
  }

  /** The exit code of PID 1. */
  get exit(): Promise<number> {
    return this.#namespace.exit
  }

  /** The pid of PID 1 outside. */
  get init(): number {
    return this.#namespace.init
  }

  /** The processes in it: number outside by number inside. */
  get processes(): Map<number, number> {
    return this.#namespace.processes
  }

  /** Number outside of a process in it. */
  outside(inside: number): number {
    return this.#namespace.outside(inside)
  }

  /** As the kubelet does, to its PID 1. */
  signal(name: NodeJS.Signals, inside = 1): void {
    this.#namespace.signal(name, inside)
  }

  /** Starts a command in it that goes on, as `kubectl exec` does. */
  begin(...command: string[]): Promise<number> {
    return this.#sandbox.launch([...this.#enter, ...command])
  }

  /** `kubectl exec`: runs a command in it to its end. */
  exec(...command: string[]): Promise<Ran> {
    return this.#sandbox.runCommand([...this.#enter, ...command])
  }

  /** The readiness probe: `test -s FILE`. */
  async ready(file: string): Promise<void> {
    const inside = `/proc/${this.init}/root${file}`
    await until(
      `${file} is there in the pod`,
      () => existsSync(inside),
      20_000,
      () => this.#sandbox.output,
    )
  }

  get #enter(): string[] {
    return ['nsenter', '--target', `${this.init}`, ...USER, '--pid', '--mount']
  }
}
