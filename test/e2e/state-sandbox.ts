import { fileURLToPath } from 'node:url'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const MEMBER = fileURLToPath(new URL('state-member.mjs', import.meta.url))

/** A sandbox with a member that serves, and the daemon behind it if there is to be one. */
export async function openState(hosting = 'embedded'): Promise<Sandbox> {
  const sandbox = Sandbox.open()
  if (hosting === 'daemon') {
    await sandbox.serve('--control', sandbox.control, '--log-level', 'silent')
    await until('the daemon listens', () => sandbox.output.includes('listens'))
  }
  await launchMember(sandbox, hosting)
  return sandbox
}

/** One more member, which serves in place of the last. */
export async function launchMember(sandbox: Sandbox, hosting: string): Promise<void> {
  const before = sandbox.output.split('serving').length
  await sandbox.launch([process.execPath, MEMBER, sandbox.control, hosting])
  await until(
    'the member serves',
    () => sandbox.output.split('serving').length > before,
    10_000,
    () => sandbox.output,
  )
}
