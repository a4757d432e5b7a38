import type { Code } from '../globals.js'
import type { SimulatedProcess } from '../process.js'
import type { World } from '../world.js'
import { CONTROL } from './program.js'

/** The time for the last connections that \`stop soon\` gives. */
export const SOON_MS = 1_000

/** The commands that an operator gives, as the command line sends them. */
const COMMANDS = {
  rollback: ['service.rollback', ''],
  'stop service': ['service.stop', ''],
  'stop soon': ['service.stop', `{"timeoutMs":${SOON_MS}}`],
  reload: ['service.reload', ''],
  restart: ['workers.replace', ''],
  'set 1': ['workers.set', '1'],
  'set 2': ['workers.set', '2'],
  'set 4': ['workers.set', '4'],
} as const

/** Services that an operator upgrades. */
const UPGRADES = { upgrade: 'shop', 'upgrade daemon': 'fd-broker.daemon' } as const
/** The time limit of an order. */
const ORDER_MS = 20_000
/** An operator takes a server for hung that has not answered for so long. */
const HUNG_MS = 5_000
/** The time within which an operator cancels an upgrade. */
const CANCEL_MS = 1_500

export type OperatorOrder =
  | keyof typeof COMMANDS
  | keyof typeof UPGRADES
  | 'status'
  | 'cancelled upgrade'
  | 'kill stuck'

interface Answers {
  upgraded(pid: number): void
  status(status: Status): void
  done(): void
  failed(code: string, error: Error): void
}

type Status = Awaited<ReturnType<Code['OperatorClient']['prototype']['status']>>

/** Starts an operator, a process that gives one order and ends. `upgraded` gets the pid of a process that serves, as the answer says; `done` is called after any answer without an error, `failed` with the code of one. */
export function startOperator(
  code: Code,
  world: World,
  what: OperatorOrder,
  { upgraded = () => {}, failed = () => {}, status = () => {}, done = () => {} }: Partial<Answers> = {},
): SimulatedProcess {
  return world.start('op', async p => {
    try {
      const client = await code.OperatorClient.connect(CONTROL)
      if (what === 'status') status(await client.status())
      else if (what === 'kill stuck') upgraded((await killStuck(code, p, client)).pid)
      else if (what === 'cancelled upgrade') {
        const cancel = new AbortController()
        p.setTimer(() => cancel.abort(), world.below(CANCEL_MS))
        const answer = await client.upgrade({ service: 'shop', timeout: ORDER_MS, signal: cancel.signal })
        upgraded(answer.pid)
      } else if (what === 'upgrade' || what === 'upgrade daemon') {
        const answer = await client.upgrade({ service: UPGRADES[what], timeout: ORDER_MS })
        upgraded(answer.pid)
      } else {
        const [name, body] = COMMANDS[what]
        await client.command(name, body, { service: 'shop', timeoutMs: ORDER_MS })
      }
      world.note(p, `${what}: done`)
      done()
    } catch (error) {
      // An answer too: the operator sees it.
      if (!p.dead) failed((error as { code?: string }).code ?? String(error), error as Error)
      if (!p.dead) world.note(p, `${what}: ${(error as { code?: string }).code ?? error}`)
      if ((error as { code?: string }).code === 'ENOSYS') throw error
    }
    world.kill(p, 'ends', { code: 0, signal: null })
  })
}

/** `fd-broker upgrade --kill-stuck`. */
async function killStuck(
  { replaceHung }: Code,
  p: SimulatedProcess,
  client: Awaited<ReturnType<Code['OperatorClient']['connect']>>,
): Promise<{ readonly pid: number }> {
  try {
    await client.status({ timeout: HUNG_MS })
  } catch (error) {
    if ((error as { code?: string }).code !== 'ERR_FDB_DEADLINE') throw error
    return await replaceHung({
      control: CONTROL,
      argv: [],
      without: [],
      timeoutMs: ORDER_MS,
      progress() {},
      signal: new AbortController().signal,
      report: line => p.world.note(p, line),
      openOutput: () => null,
    })
  }
  return await client.upgrade({ service: 'shop', timeout: ORDER_MS, killStuck: true })
}
