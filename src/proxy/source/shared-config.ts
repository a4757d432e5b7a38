import { SILENT } from '../../base/logger.js'
import type { Logger, Member } from '../../index.js'
import type { ProxyConfig } from '../config/schema.js'
import { FollowedConfig, type SharedConfig } from '../state/followed-config.js'

/** Resolves when the shared parts are known; with null if this process uses its own configuration alone. The code of sources is loaded only for a proxy that has one. */
export async function sharedConfigOf(
  member: Member,
  { source, timeouts, upgrade: { timeout } }: ProxyConfig,
  { logger = SILENT, signal }: { logger?: Logger | undefined; signal?: AbortSignal | undefined },
): Promise<SharedConfig | null> {
  if (member.follows !== null) return new FollowedConfig(member, logger)
  if (source === null) return null
  const { SourcedConfig } = await import('./sourced-config.js')
  return await SourcedConfig.open(member, { source, timeouts }, logger, { timeout, signal })
}
