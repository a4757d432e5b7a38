import { writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { AutoProgram } from '../e2e/auto-program.js'
import { signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { ORDERED_MS } from './given.js'
import * as operators from './operators.js'
import type { Stage } from './stage.js'

/** A program that knows nothing of fd-broker. With WAITS it listens, with WAITS_AGAIN at its second address, only when that file exists. */
const PROGRAM = `import { existsSync } from 'node:fs'
import http from 'node:http'
const { WAITS, WAITS_AGAIN } = process.env
async function madeBy(file) {
  console.log(process.pid, 'waits')
  while (!existsSync(file)) await new Promise(resolve => setTimeout(resolve, 20))
}
if (WAITS) await madeBy(WAITS)
const server = http.createServer(({ url }, response) => {
  if (url === '/held') response.write('x')
  else response.end(\`0,\${process.pid}\`)
})
server.listen(8080)
if (WAITS_AGAIN) await madeBy(WAITS_AGAIN)
http.createServer().listen('second.sock')
`
const SLOW = { FD_BROKER_PROBATION: '600s', FD_BROKER_DRAIN: '600s', FD_BROKER_READY_TIMEOUT: '600s' }
const NO_PROBATION = { ...SLOW, FD_BROKER_PROBATION: '0' }

export interface AutoReached {
  readonly program: AutoProgram
  /** The process that gets the order. */
  readonly pid: number
  readonly release?: () => void
}

interface AutoPhase {
  /** Completes the sentence "The process …". */
  readonly about: string
  readonly heldBy?: string
  reach(): Promise<AutoReached>
}

function start(): Promise<AutoProgram> {
  return AutoProgram.of(PROGRAM)
}

/** Launches a process that waits for the file in this variable. Returns its pid, and a function that makes the file. */
async function launchWaiting(
  program: AutoProgram,
  variable: 'WAITS' | 'WAITS_AGAIN',
): Promise<{ pid: number; letListen: () => void }> {
  const file = program.path('listens')
  const pid = await program.launch('import', { ...SLOW, [variable]: file })
  await until('the program waits', () => program.output.includes(`${pid} waits`))
  return { pid, letListen: () => writeFileSync(file, '') }
}

/** A version that serves, and the next one, which has joined and does not listen at its second address. */
async function startJoining() {
  const program = await start()
  const elder = await program.serve('import', 1, SLOW)
  const { pid: joiner, letListen } = await launchWaiting(program, 'WAITS_AGAIN')
  await until('it has joined', async () => (await operators.status(program.control))?.phase === 'offering')
  return { program, elder, joiner, letListen }
}

/** A request that is never answered in full. Returns a function that ends it. */
async function hold(program: AutoProgram): Promise<() => void> {
  const held = request(`${program.url}/held`, { agent: false })
  held.on('error', () => {})
  await new Promise<void>((resolve, reject) => {
    held.on('response', response => response.resume().on('error', () => {}) && resolve())
    held.on('error', reject)
    held.end()
  })
  return () => held.destroy()
}

/** The serving process knows that the previous version stands by, and for how long. */
async function stoodBy(program: AutoProgram): Promise<void> {
  await program.statusWhere('the previous version stands by', ({ draining = [] }) =>
    draining.some(({ phase }) => phase === 'standby'),
  )
}

export const AUTO_PHASES = {
  starting: {
    about: 'is the first one, and does not listen yet',
    heldBy: 'it listens',
    reach: async () => {
      const program = await start()
      const { pid, letListen } = await launchWaiting(program, 'WAITS')
      return { program, pid, release: letListen }
    },
  },
  joining: {
    about: 'is the next version, and listens at one of two addresses',
    heldBy: 'it listens at both',
    reach: async () => {
      const { program, joiner, letListen } = await startJoining()
      return { program, pid: joiner, release: letListen }
    },
  },
  offering: {
    about: 'serves; the next version listens at one of two addresses',
    heldBy: 'it listens at both',
    reach: async () => {
      const { program, elder, letListen } = await startJoining()
      return { program, pid: elder, release: letListen }
    },
  },
  serving: {
    about: 'serves alone',
    reach: async () => {
      const program = await start()
      return { program, pid: await program.serve('import', 1, SLOW) }
    },
  },
  probation: {
    about: 'serves; the previous version stands by',
    reach: async () => {
      const program = await start()
      await program.serve('import', 1, SLOW)
      const pid = await program.serve('import', 2, SLOW)
      await stoodBy(program)
      return { program, pid }
    },
  },
  returned: {
    about: 'serves again; the next version was rolled back, and has ended',
    reach: async () => {
      const program = await start()
      const pid = await program.serve('import', 1, SLOW)
      const successor = await program.serve('import', 2, SLOW)
      await stoodBy(program)
      await operators.rollback(program.control)
      await program.statusWhere('it serves again', status => status.pid === pid && status.role === 'serving')
      await program.ends(successor)
      return { program, pid }
    },
  },
  standby: {
    about: 'stands by; the next version serves',
    reach: async () => {
      const program = await start()
      const pid = await program.serve('import', 1, SLOW)
      await program.serve('import', 2, SLOW)
      await stoodBy(program)
      return { program, pid }
    },
  },
  leaving: {
    about: 'was replaced, and waits for its last connection',
    heldBy: 'that connection has ended',
    reach: async () => {
      const program = await start()
      const pid = await program.serve('import', 1, NO_PROBATION)
      const release = await hold(program)
      await program.serve('import', 2, NO_PROBATION)
      return { program, pid, release }
    },
  },
} as const satisfies Readonly<Record<string, AutoPhase>>

interface AutoOrder {
  readonly about: string
  give(reached: AutoReached): Promise<unknown>
  readonly undo?: (pid: number) => void
}

function signal(name: NodeJS.Signals): AutoOrder['give'] {
  return async ({ pid }) => signalPid(pid, name)
}

function operator(act: (control: string) => Promise<unknown>): AutoOrder['give'] {
  return ({ program }) => act(program.control)
}

export const AUTO_ORDERS = {
  TERM: { about: 'SIGTERM', give: signal('SIGTERM') },
  INT: { about: 'SIGINT', give: signal('SIGINT') },
  QUIT: { about: 'SIGQUIT', give: signal('SIGQUIT') },
  stop: { about: '`fd-broker stop`', give: operator(control => operators.stop(control, null)) },
  'stop --drain': {
    about: '`fd-broker stop --drain 1s`, or another short time',
    give: operator(control => operators.stop(control, ORDERED_MS)),
  },
  upgrade: { about: '`fd-broker upgrade`', give: operator(control => operators.upgrade(control)) },
  rollback: { about: '`fd-broker rollback`', give: operator(operators.rollback) },
  reload: { about: '`fd-broker reload`', give: operator(operators.reload) },
  status: { about: '`fd-broker status`', give: operator(operators.askStatus) },
  death: { about: 'SIGKILL', give: signal('SIGKILL') },
  stopped: {
    about: 'SIGSTOP, and later SIGCONT',
    give: signal('SIGSTOP'),
    undo: pid => signalPid(pid, 'SIGCONT'),
  },
  continued: {
    about: 'SIGSTOP, and SIGCONT at once',
    give: async ({ pid }) => {
      signalPid(pid, 'SIGSTOP')
      signalPid(pid, 'SIGCONT')
    },
  },
} as const satisfies Readonly<Record<string, AutoOrder>>

export type AutoPhaseName = keyof typeof AUTO_PHASES
export type AutoOrderName = keyof typeof AUTO_ORDERS

/** Brings a program under `fd-broker/auto` into the phase. */
export async function autoStage(phase: AutoPhaseName, order: AutoOrderName): Promise<Stage> {
  const reached: AutoReached = await AUTO_PHASES[phase].reach()
  const { give, undo }: AutoOrder = AUTO_ORDERS[order]
  const { pid, program, release } = reached
  return {
    pid,
    serving: [pid],
    url: program.url,
    // QUIT ends the process as without fd-broker.
    removes: order === 'death' || order === 'QUIT' ? null : program.control,
    give: () => give(reached),
    undo: () => undo?.(pid),
    release: () => release?.(),
    phase: async () => (await operators.status(program.control))?.phase ?? '',
    describe: () => program.output,
  }
}
