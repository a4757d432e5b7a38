import { OperatorClient } from '../../src/operator/client.js'
import { peerLeft } from '../../src/wire/link.js'

/** The part of a daemon's status that tests of other users look at. */
interface OwnersStatus {
  readonly pid: number
  readonly descriptors: number
  readonly services: readonly { readonly service: string; readonly phase: string }[]
}

/** The status that the daemon's owner gets over a new connection. A daemon that hands over closes its connections, and the next one answers. */
export async function ownersStatus(control: string): Promise<OwnersStatus> {
  for (;;) {
    try {
      using client = await OperatorClient.connect(control)
      return (await client.status({ timeout: 30_000 })) as never
    } catch (error) {
      if (!peerLeft(error)) throw error
    }
  }
}
