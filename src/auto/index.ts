/** `node --import fd-broker/auto server.js`: hands the servers of a program without fd-broker code over to its next version. */

import { resolve } from 'node:path'
import { startedAs } from '../os/command-line.js'
import { Auto } from './auto.js'
import { exclusionOf } from './exclusion.js'
import { intercept, warnAboutUdp } from './intercept.js'
import { delayMain } from './node-startup.js'
import { misspelled, settingsOf } from './settings.js'
import { messageOf, sayOnce } from './stderr.js'

const auto = begin()

/** Resolves when it is known whether another version serves; its sockets are here then. The entry for `import` awaits it. @internal */
export const started: Promise<void> = auto?.start() ?? Promise.resolve()

delayMain(started)

/** Reports that this version may serve, if FD_BROKER_READY is `call`; otherwise does nothing. */
export function ready(): void {
  auto?.ready()
}

function begin(): Auto | null {
  // The environment before the program changes it: a successor starts with the same.
  const { env } = startedAs
  const script = process.argv[1]
  const program = script === undefined ? undefined : resolve(script)
  const exclusion = exclusionOf(program, process.env)
  if (exclusion !== null) {
    if (exclusion.notice !== null) sayOnce(exclusion.notice)
    return null
  }
  for (const warning of misspelled(env)) sayOnce(warning)
  try {
    const created = new Auto(settingsOf(program!, env))
    intercept(created)
    warnAboutUdp()
    return created
  } catch (error) {
    sayOnce(`this process runs without upgrades: ${messageOf(error)}`)
    return null
  }
}
