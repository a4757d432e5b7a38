import type { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'
import { fdbroker } from '../proto/wire.js'
import {
  REFUSED,
  remoteError,
  VERSIONS,
  type VersionRange,
  type WireBody,
  type WireEnvelope,
} from './link.js'

export type Hello = fdbroker.wire.Hello.$Properties
export type Intent = 'join' | 'back' | 'draining' | 'follow' | 'operate'

const INTENTS: Readonly<Record<Intent, number>> = {
  join: fdbroker.wire.Intent.JOIN,
  back: fdbroker.wire.Intent.BACK,
  draining: fdbroker.wire.Intent.DRAINING,
  follow: fdbroker.wire.Intent.FOLLOW,
  operate: fdbroker.wire.Intent.OPERATE,
}

/** Returns the first message of a connection: which process this is, and its intent. */
export function helloFor(
  intent: Intent,
  { versions = VERSIONS, ...facts }: Hello & { readonly versions?: VersionRange } = {},
): WireBody {
  const { min: versionMin, max: versionMax } = versions
  return { hello: { versionMin, versionMax, intent: INTENTS[intent], pid: process.pid, ...facts } }
}

/** Returns undefined for an intent that this release does not know. */
export function intentOf({ intent = 0 }: Hello): Intent | undefined {
  return (Object.keys(INTENTS) as Intent[]).find(name => INTENTS[name] === intent)
}

/** The answer to {@link helloFor}. The receiver owns the pidfd of the process that has answered; null if it sent none. */
export interface Welcomed {
  readonly welcome: fdbroker.wire.Welcome.$Properties
  readonly pidfd: OwnedFd | null
}

/** Reads the answer to {@link helloFor}, and removes its pidfd from `fds`. Returns an error for a refusal, and null for any other message. */
export function readWelcome(
  { welcome, reject }: WireEnvelope,
  fds: OwnedFd[],
  fallback: Parameters<typeof remoteError>[1] = REFUSED,
): Welcomed | FdbError | null {
  if (reject) return remoteError(reject, fallback)
  return welcome ? { welcome, pidfd: fds.shift() ?? null } : null
}
