/** `node --import fd-broker/auto server.js`: upgrades a program that does not call fd-broker itself. */

import { resolve } from 'node:path'
import { startedAs } from '../os/command-line.js'
import { Auto } from './auto.js'
import { exclusionOf } from './exclusion.js'
import { intercept, warnAboutUdp } from './intercept.js'
import { delayMain } from './node-startup.js'
import { misspelled, settingsOf } from './settings.js'
import { messageOf, printOnce } from './stderr.js'

const auto = createAuto()

/** Resolves when it is known whether another version serves; this process then has its sockets. The entry for `import` awaits it. @internal */
export const started: Promise<void> = auto?.start() ?? Promise.resolve()

delayMain(started)

/** Reports that this version can serve, if FD_BROKER_READY is `call`; otherwise does nothing. */
export function ready(): void {
  auto?.ready()
}

function createAuto(): Auto | null {
  // Settings come from the environment at the start, which a successor gets too, not from variables that the program has set.
  const { env } = startedAs
  const script = process.argv[1]
  const program = script === undefined ? undefined : resolve(script)
  const exclusion = exclusionOf(program, process.env)
  if (exclusion !== null) {
    if (exclusion.notice !== null) printOnce(exclusion.notice)
    return null
  }
  for (const warning of misspelled(env)) printOnce(warning)
  try {
    const created = new Auto(settingsOf(program!, env))
    intercept(created)
    warnAboutUdp()
    return created
  } catch (error) {
    printOnce(`this process runs without upgrades: ${messageOf(error)}`)
    return null
  }
}
