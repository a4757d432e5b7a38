import type { VersionSettings } from '../../src/run/settings.js'

/** The settings of a version under `fd-broker run`. Default: no program, which reports over a notify socket. */
export function versionSettings(facts: Partial<VersionSettings>): VersionSettings {
  return {
    command: [],
    env: {},
    listen: [],
    nonBlocking: false,
    ready: { kind: 'notify' },
    asking: { interval: null, timeout: 1_000, passes: 1 },
    readyTimeout: 60_000,
    healthyFor: 0,
    probation: 0,
    stopSignal: 'SIGTERM',
    stopTimeout: 10_000,
    survive: false,
    ...facts,
  }
}
