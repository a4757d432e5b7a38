import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { PidNamespace } from '../processes/namespace.js'
import { AutoProgram } from './auto-program.js'
import { BY_VARIABLE, journalOf, SERVER, upgraded, WrappedProgram } from './wrapped-program.js'

const TSX = fileURLToPath(import.meta.resolve('tsx/cli'))
/** Node alone does not run it. */
const TYPED = SERVER.replace('server =', 'server: http.Server =')

// tsx sends a signal again if its child has not told of it after 30 ms, and kills the child 30 ms later: this needs a calm machine.
describe.runIf(NIGHTLY)(
  'a program under fd-broker/auto that tsx has started hears of the signal that ends tsx, once, and can clean up:',
  () => {
    it.each((['SIGINT', 'SIGTERM'] as const).flatMap(signal => [[signal, 1] as const, [signal, 2] as const]))(
      'tsx in a terminal, %s, generation %d',
      async (signal, generation) => {
        const wrapped = await WrappedProgram.of([TSX], TYPED, 'server.ts')
        const { pid, replaced } = await wrapped.ended(signal, generation)
        expect(wrapped.program.read('journal')).toBe(journalOf(signal, pid, replaced))
      },
    )
  },
)

describe('a program under fd-broker/auto that a tool has started hears of the signal that ends the tool, once, and can clean up:', () => {
  it.runIf(NIGHTLY)(
    'npm start, whose script begins with exec, as PID 1 of a container, SIGTERM',
    async () => {
      const program = await AutoProgram.of(SERVER)
      program.write(
        'package.json',
        JSON.stringify({ name: program.name, scripts: { start: 'exec node server.mjs' } }),
      )
      const { env, log, folder } = program.sandbox
      const command = ['sh', '-c', 'cd "$1" && exec npm start', 'sh', folder]
      const container = await PidNamespace.start(command, {
        env: { ...env, ...program.place, ...BY_VARIABLE },
        log,
      })
      const first = await program.serves(1)
      const second = await upgraded(program, container.outside(first))
      container.signal('SIGTERM')
      expect(await container.exit).toBe(0)
      expect(program.read('journal')).toBe(journalOf('SIGTERM', second, first))
    },
  )
})
