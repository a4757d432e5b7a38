import type { JoinOptions } from '../index.js'
import type { ProxyConfig } from './config/config.js'

/** What is not in the configuration. `place`: in place of what is. */
export type JoinedBy = Pick<JoinOptions, 'logger' | 'pidFile' | 'signal' | 'systemd'> & {
  place?: Pick<JoinOptions, 'hosting' | 'follow'> & { service?: string }
}

/** How a proxy of this configuration joins its service. */
export function joinOptions(
  config: ProxyConfig,
  { logger, pidFile, place, signal, systemd }: JoinedBy,
  health: () => boolean | string,
): JoinOptions {
  const { control, drain, service, stateFile, upgrade } = config
  const { timeout: _, health: __, ...times } = upgrade
  return {
    service,
    ...(control !== null && { control }),
    upgrade: times,
    drain: drainOf(drain),
    mainProcess: 'stays',
    health,
    ...(logger && { logger }),
    ...(stateFile && place?.follow === undefined && { stateFile }),
    ...(signal && { signal }),
    ...(systemd && { systemd }),
    ...(pidFile && { pidFile }),
    ...place,
  }
}

function drainOf({
  timeout,
  tlsTimeout,
  move,
  firstWave,
  movesPerSecond,
}: ProxyConfig['drain']): JoinOptions['drain'] & object {
  return { timeout, tlsTimeout, move, firstWave, ...(movesPerSecond !== null && { movesPerSecond }) }
}
