import {
  nobodyStandsBy,
  RELOAD,
  ROLLBACK,
  rollbackBy,
  STOP,
  stopOrderOf,
  toldReply,
} from '../operator/service-commands.js'
import type { Commands } from './commands.js'
import type { Hosting } from './hosting.js'
import type { CloseOptions } from './member-options.js'
import type { Reloading } from './reloading.js'
import type { Shared } from './shared.js'

/** Until the one that stood by has been told. */
const LEAVING_MS = 10_000

export interface ServiceCommandsParts {
  readonly shared: Shared
  readonly hosting: () => Hosting
  readonly commands: Commands
  readonly reloading: Reloading
  close(options: CloseOptions): Promise<void>
  /** Tells whoever decides at once how this process is. */
  beat(): void
}

/** What operators may ask of every service: `fd-broker reload`, `rollback` and `stop`. */
export function serveServiceCommands({
  shared,
  hosting,
  commands,
  reloading,
  close,
  beat,
}: ServiceCommandsParts): void {
  const { changes, departure, machine } = shared
  const told = () => toldReply({ pid: process.pid, generation: shared.generation })
  commands.set(RELOAD, async () => {
    await reloading.run()
    return told()
  })
  commands.set(ROLLBACK, async (_body, { by }) => {
    if (!hosting().standsBy) {
      throw nobodyStandsBy(`process ${process.pid} (generation ${shared.generation})`)
    }
    departure.asked = rollbackBy(by)
    beat()
    void close({})
    const leaves = () => departure.over || machine.phase === 'leaving' || machine.phase === 'gone'
    await changes.until(leaves, LEAVING_MS)
    return told()
  })
  commands.set(STOP, async body => {
    const { timeoutMs } = stopOrderOf(body)
    // The answer leaves first.
    setImmediate(() => void close({ handBack: false, ...(timeoutMs !== null && { timeout: timeoutMs }) }))
    return told()
  })
}
