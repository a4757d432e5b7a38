import { FdbError } from '../errors.js'
import { accepts, isUnderWay } from '../handoff/phases.js'
import type { Announcer } from './announcer.js'
import type { Duty } from './duty.js'
import type { Hosting } from './hosting.js'
import type { CloseOptions } from './member-options.js'
import type { Shared } from './shared.js'
import type { Upgrades } from './upgrades.js'

/** The parts of the process that is closed. */
export interface ClosingParts extends Shared {
  readonly hosting: Hosting
  readonly duty: Duty
  readonly upgrades: Upgrades
  readonly announcer: Announcer
}

/** What its driver does. */
export interface ClosingDriver {
  /** This process does not come to serve. */
  refuse(error: FdbError): void
  /** The service ends with it. */
  removePaths(): void
}

/** The end that the application asks for: whatever is under way comes to its end first. Resolves when all is let go of. */
export async function closeInOrder(
  parts: ClosingParts,
  { timeout, handBack = true }: CloseOptions,
  driver: ClosingDriver,
): Promise<void> {
  const { changes, departure, settings } = parts
  if (timeout !== undefined) departure.drainTimeout = timeout
  if (departure.over) return
  if (!departure.closing) {
    departure.close()
    changes.tell()
    await finishWork(parts, timeout ?? settings.drainTimeout, handBack)
    if (departure.over) return
    leave(parts, handBack, driver)
  }
  if (!departure.over) await departure.retired
}

async function finishWork(parts: ClosingParts, timeoutMs: number, handBack: boolean): Promise<void> {
  const { changes, departure, hosting, machine, upgrades } = parts
  // A successor that this process starts itself is to end with it.
  await upgrades.end(timeoutMs)
  // A handoff under way is brought to its end first: its successor would be the one to serve.
  await changes.until(() => departure.over || !isUnderWay(machine.holder?.phase), timeoutMs)
  if (departure.over || machine.phase !== 'serving') return
  if (!handBack) await hosting.releaseStandby()
  await endDuty(parts)
}

async function endDuty({ changes, departure, duty, settings }: ClosingParts): Promise<void> {
  const quiesced = duty.quiesce()
  if (quiesced === undefined) return
  let ended = false
  void quiesced.then(() => {
    ended = true
    changes.tell()
  })
  await changes.until(() => departure.over || ended, settings.times.quiesce)
  duty.hurry()
}

function leave(
  { announcer, departure, hosting, machine }: ClosingParts,
  handBack: boolean,
  driver: ClosingDriver,
): void {
  const { phase } = machine
  if (phase !== 'leaving') departure.closedBy(phase === 'standby' ? 'replaced' : 'closed')
  const { link } = machine.member
  if (phase === 'joining' || phase === 'ready') {
    if (link === 'none') driver.removePaths()
    driver.refuse(new FdbError('ERR_FDB_CLOSED', 'the application closed this member before it served'))
    return
  }
  if (accepts(phase) && !(handBack && hosting.standsBy)) announcer.ends()
  if (accepts(phase) && link === 'local') driver.removePaths()
  // Who leaves in probation does not come back: the successor need not wait for the end of this process.
  if (machine.holder?.phase === 'probation') machine.stepHolder({ type: 'healthy' })
  machine.step({ type: 'leave' })
}
