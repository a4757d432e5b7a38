import { spawn, spawnSync } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { onTestFinished, type TestContext } from 'vitest'
import type { fdbroker } from '../../src/proto/wire.js'
import type { WireBody } from '../../src/wire/link.js'
import { bundled } from './bundled.js'
import { signalPid } from './launch.js'
import { hello } from './raw-peer.js'

/** A user of no name. */
export const SECOND_UID = 12_001

export type SecondUserOrder =
  | {
      readonly verb: 'say'
      /** A name of the connection. */
      readonly as: string
      /** The connection is another user's than the process: root's process may be any. */
      readonly uid?: number
      /** A new connection to this path; absent: the one of that name. */
      readonly control?: string
      readonly bodies: readonly WireBody[]
      /** Come with the last body: `memory`, `pidfd:123`. */
      readonly fds?: readonly string[]
      /** Waits for one of these messages, or for the Reject. */
      readonly answers: readonly string[]
    }
  | { readonly verb: 'pry' | 'leave'; readonly as: string }
  | { readonly verb: 'child' }
  | { readonly verb: 'notify'; readonly path: string; readonly text: string }

/** An answer, and where the descriptors lead that came with it. */
export type Heard = { readonly links: readonly string[] } & {
  readonly [K in keyof fdbroker.wire.Envelope.$Properties]?: fdbroker.wire.Envelope.$Properties[K]
}

/** The result of each attempt to change a descriptor's file: `done`, or the errno. */
export interface Pried {
  readonly link: string
  readonly mode: string
  readonly reopened: string
  readonly written: string
  readonly sealed: string
  readonly text: string
}

export function needsRoot({ skip }: TestContext): void {
  if (process.getuid?.() !== 0) skip('only root can be other users')
}

/** Skips a test where a user cannot have a file system of its own (test/fixtures/silent_file.py). */
export function needsSilentFiles(context: TestContext): void {
  needsRoot(context)
  const script = fileURLToPath(new URL('../fixtures/silent_file.py', import.meta.url))
  if (spawnSync('python3', [script], { stdio: 'ignore' }).status !== 0) context.skip('there is no FUSE')
}

let connections = 0

/** A process of another user, which may say at a control socket whatever it likes. */
export class SecondUser {
  readonly pid: number
  readonly #tell: (order: SecondUserOrder) => Promise<unknown>

  private constructor(pid: number, tell: (order: SecondUserOrder) => Promise<unknown>) {
    this.pid = pid
    this.#tell = tell
  }

  static async start(uid = SECOND_UID): Promise<SecondUser> {
    const user = ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups']
    const program = bundled('second-user.ts')
    const [file = '', ...args] = [...user, process.execPath, program.file]
    const child = spawn(file, args, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...program.env, NODE_OPTIONS: '' },
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    const lines = createInterface(child.stdout)[Symbol.asyncIterator]()
    const next = async () => JSON.parse((await lines.next()).value ?? '{"error":"the second user has ended"}')
    const { pid } = (await next()) as { pid: number }
    return new SecondUser(pid, async order => {
      child.stdin.write(`${JSON.stringify(order)}\n`)
      const { value, error } = (await next()) as { value?: unknown; error?: string }
      if (error !== undefined) throw new Error(error)
      return value
    })
  }

  /** Returns null if the other side has closed without a word. */
  async say(order: Omit<Extract<SecondUserOrder, { verb: 'say' }>, 'verb'>): Promise<Heard | null> {
    return (await this.#tell({ verb: 'say', ...order })) as Heard | null
  }

  /** As an operator, over a connection of its own: the code of the refusal, or `done`, and the whole reply. */
  async asks(
    control: string,
    descriptorRequest: fdbroker.wire.DescriptorRequest.$Properties,
    fds: readonly string[] = [],
  ): Promise<{ code: string; json: unknown; as: string; links: readonly string[] }> {
    const as = `operator${++connections}`
    const bodies = [hello('OPERATE', ''), { descriptorRequest: { request: 1, ...descriptorRequest } }]
    const heard = await this.say({ as, control, bodies, fds, answers: ['descriptorReply'] })
    const { descriptorReply: reply, reject, links = [] } = heard ?? {}
    const code = reply?.ok ? 'done' : (reply?.code ?? reject?.code ?? 'closed')
    return { code, json: reply?.json ? JSON.parse(reply.json) : null, as, links }
  }

  /** Tries to change everything that came over a connection. */
  async pry(as: string): Promise<Pried[]> {
    return (await this.#tell({ verb: 'pry', as })) as Pried[]
  }

  async leave(as: string): Promise<void> {
    await this.#tell({ verb: 'leave', as })
  }

  /** Says something at a notify socket: the errno where it cannot. */
  async notifies(path: string, text: string): Promise<string> {
    return (await this.#tell({ verb: 'notify', path, text })) as string
  }

  /** The pid of a child of it, which lives until the test is over. */
  async child(): Promise<number> {
    const pid = (await this.#tell({ verb: 'child' })) as number
    onTestFinished(() => signalPid(pid, 'SIGKILL'))
    return pid
  }
}
