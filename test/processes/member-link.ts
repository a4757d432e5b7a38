import { startMember } from '../../src/member/joining/join.js'
import { type Member, memberOf } from '../../src/member/member.js'
import { resolveOptions } from '../../src/member/options/options.js'

interface DaemonMember {
  readonly member: Member
  /** Whether the member has a link to a daemon. */
  readonly isConnected: () => boolean
  /** Breaks the link. */
  readonly disconnect: () => void
}

/** Joins a daemon's service. */
export async function joinDaemon(control: string): Promise<DaemonMember> {
  const driver = await startMember(resolveOptions({ service: 'shop', control, hosting: 'daemon' }))
  return {
    member: memberOf(driver),
    isConnected: () => driver.runtime.machine.member.link === 'up',
    disconnect: () => {
      driver.runtime.joined.link!.close()
      driver.runtime.machine.step({ type: 'lost' })
    },
  }
}
