import type { Code } from '../globals.js'
import type { World } from '../world.js'
import { CONTROL } from './program.js'

/** The commands that an operator gives, as the command line sends them. */
const COMMANDS = {
  rollback: ['service.rollback', ''],
  'stop service': ['service.stop', ''],
} as const

/** Starts an operator, who gives one command and ends. */
export function startOperator(code: Code, world: World, what: 'rollback' | 'stop service' | 'status'): void {
  const p = world.start('op', async () => {
    try {
      const client = await code.OperatorClient.connect(CONTROL)
      if (what === 'status') await client.status()
      else await client.command(COMMANDS[what][0], COMMANDS[what][1], { service: 'shop' })
      world.note(p, `${what}: done`)
    } catch (error) {
      // An answer too: the operator sees it.
      if (!p.dead) world.note(p, `${what}: ${(error as { code?: string }).code ?? error}`)
      if ((error as { code?: string }).code === 'ENOSYS') throw error
    }
    world.kill(p, 'ends')
  })
}
