import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { PersistedFds } from '../../src/daemon/persisted-fds.js'
import { AccessCheck } from '../../src/daemon/policy/access-check.js'
import { OWNERS_ONLY, type Policy } from '../../src/daemon/policy/policy.js'
import { Services } from '../../src/daemon/services.js'
import { UserQuotas } from '../../src/daemon/user-quotas.js'
import { Registry } from '../../src/holder/registry.js'
import { resolveTimes } from '../../src/holder/times.js'

/** The services of a daemon, with the descriptors in `registry`, until the test ends. */
export function daemonServices(
  folder: string,
  { registry = new Registry(), policy = OWNERS_ONLY }: { registry?: Registry; policy?: Policy } = {},
): Services {
  const services = new Services({
    settings: { control: join(folder, 'daemon.sock'), times: resolveTimes(undefined), logger: SILENT },
    persisted: new PersistedFds(registry),
    accessCheck: new AccessCheck(policy, SILENT),
    quotas: new UserQuotas(1_024),
    onChange: () => {},
    receiver: () => undefined,
  })
  onTestFinished(() => {
    services.close({ kept: true })
    registry.close()
  })
  return services
}
