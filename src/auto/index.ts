/** `node --import fd-broker/auto server.js`: upgrades a program that does not call fd-broker itself. */

import { checkRuntime } from '../base/runtime.js'
import { scriptPath, startedAs } from '../os/command-line.js'
import { Auto } from './auto.js'
import { exclusionOf } from './exclusion.js'
import { intercept, warnAboutUdp } from './intercept.js'
import { delayMain } from './node-startup.js'
import { leaveServicePaths } from './removed-paths.js'
import { misspelled, settingsOf } from './settings.js'
import { messageOf, printOnce } from './stderr.js'

/** Printed when the program listens for the first time: tools that only start it have no part in upgrades. */
const notices: string[] = []
/** Null if this process runs without upgrades, as the notices say; undefined if no user would expect that it takes part. */
const auto = createAuto()

if (auto !== undefined) {
  const listens = () => {
    for (const notice of notices.splice(0)) printOnce(notice)
    return auto
  }
  intercept(listens)
  if (auto !== null) {
    leaveServicePaths(path => auto.isListenedAt(path))
    warnAboutUdp()
  }
}

/** Resolves when the version that serves knows that this process starts. The entry for `import` awaits it. @internal */
export const started: Promise<unknown> = auto?.announced ?? Promise.resolve()

if (auto?.announced) delayMain(started)

/** Reports that this version can serve, if FD_BROKER_READY is `call`; otherwise does nothing. */
export function ready(): void {
  auto?.ready()
}

function createAuto(): Auto | null | undefined {
  // Settings come from the environment at the start, which a successor gets too, not from variables that the program has set.
  const { env } = startedAs
  const script = process.argv[1]
  const program = script === undefined ? undefined : scriptPath(script)
  const exclusion = exclusionOf(program, process.env)
  if (exclusion !== null) {
    if (exclusion.notice === null) return undefined
    notices.push(exclusion.notice)
    return null
  }
  checkRuntime()
  notices.push(...misspelled(env))
  try {
    return new Auto(settingsOf(program!, env))
  } catch (error) {
    notices.push(`this process runs without upgrades: ${messageOf(error)}`)
    return null
  }
}
