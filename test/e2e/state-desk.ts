import { fileURLToPath } from 'node:url'
import { until } from '../processes/until.js'
import { Desk } from './cli-processes.js'

const MEMBER = fileURLToPath(new URL('state-member.mjs', import.meta.url))

/** A desk with a member that serves, and the daemon behind it if there is to be one. */
export async function openState(hosting = 'embedded'): Promise<Desk> {
  const desk = Desk.open()
  if (hosting === 'daemon') {
    await desk.serve('--control', desk.control, '--log-level', 'silent')
    await until('the daemon listens', () => desk.output.includes('listens'))
  }
  await launchMember(desk, hosting)
  return desk
}

/** One more member, which serves in place of the last. */
export async function launchMember(desk: Desk, hosting: string): Promise<void> {
  const before = desk.output.split('serving').length
  await desk.launch([process.execPath, MEMBER, desk.control, hosting])
  await until(
    'the member serves',
    () => desk.output.split('serving').length > before,
    10_000,
    () => desk.output,
  )
}
