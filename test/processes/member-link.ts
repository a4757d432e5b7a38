import { startMember } from '../../src/member/joining/join.js'
import { type Member, memberOf } from '../../src/member/member.js'
import { resolveOptions } from '../../src/member/options/options.js'

/** Joins a daemon's service. `isConnected`: whether the member has a link to a daemon. */
export async function joinDaemon(control: string): Promise<{ member: Member; isConnected: () => boolean }> {
  const driver = await startMember(resolveOptions({ service: 'shop', control, hosting: 'daemon' }))
  return { member: memberOf(driver), isConnected: () => driver.runtime.machine.member.link === 'up' }
}
