import { OperatorClient } from '../operator/client.js'
import { type Place, whoServes } from './who-serves.js'

/** Changes what the server is started from, and back when the upgrade to it has failed. */
export interface ReleaseChange {
  put(): void
  back(): void
  /** It stands. */
  settle?(): void
  /** Its path, for people. */
  readonly path: string
}

const ANSWER_MS = 5_000

/** Runs an upgrade to another release. What cannot be told to have failed is left as it is, and said. */
export async function withRelease<T>(
  place: Place,
  change: ReleaseChange,
  upgrade: () => Promise<T>,
): Promise<T> {
  const before = await serving(place)
  change.put()
  try {
    const upgraded = await upgrade()
    change.settle?.()
    return upgraded
  } catch (error) {
    if (before !== null && (await serving(place)) === before) {
      change.back()
      throw error
    }
    change.settle?.()
    process.stderr.write(`it is not known who serves: ${change.path} is left as it is\n`)
    throw error
  }
}

async function serving({ control, service }: Place): Promise<string | null> {
  try {
    using client = await OperatorClient.connect(control, { timeoutMs: ANSWER_MS })
    return whoServes(await client.status({ timeoutMs: ANSWER_MS }), service)
  } catch {
    return null
  }
}
