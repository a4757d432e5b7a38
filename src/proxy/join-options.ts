import type { JoinOptions } from '../index.js'
import type { ProxyConfig } from './config/schema.js'

/** Options of `join()` that are not in the configuration, except for `place`, which overrides it. */
export type JoinedBy = Pick<JoinOptions, 'logger' | 'pidFile' | 'signal' | 'systemd'> & {
  place?: (Pick<JoinOptions, 'hosting' | 'follow'> & { service?: string | undefined }) | undefined
}

export function joinOptions(
  config: ProxyConfig,
  { logger, pidFile, place, signal, systemd }: JoinedBy,
  health: () => boolean | string,
): JoinOptions {
  const { control, drain, hooks, service, stateFile, upgrade } = config
  const { timeout: _, health: __, ...upgradeTimes } = upgrade
  const { lastEvent: ___, movesPerSecond, ...drainOptions } = drain
  return {
    ...(control !== null && { control }),
    upgrade: upgradeTimes,
    drain: { ...drainOptions, ...(movesPerSecond !== null && { movesPerSecond }) },
    mainProcess: 'stays',
    health,
    ...(hooks && { hooks }),
    ...(logger && { logger }),
    ...(stateFile && place?.follow === undefined && { stateFile }),
    ...(signal && { signal }),
    ...(systemd && { systemd }),
    ...(pidFile && { pidFile }),
    service: place?.service ?? service,
    hosting: place?.hosting,
    follow: place?.follow,
  }
}
