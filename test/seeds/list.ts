import { cli } from './rooms/cli.js'
import { connections } from './rooms/connections.js'
import { daemon } from './rooms/daemon.js'
import { handoff } from './rooms/handoff.js'
import { holder } from './rooms/holder.js'
import { http1 } from './rooms/http1.js'
import { kernel } from './rooms/kernel.js'
import { listeners } from './rooms/listeners.js'
import { member } from './rooms/member.js'
import { native } from './rooms/native.js'
import { os } from './rooms/os.js'
import { proxy } from './rooms/proxy.js'
import { relay } from './rooms/relay.js'
import { run } from './rooms/run.js'
import { serviceManager } from './rooms/service-manager.js'
import { state } from './rooms/state.js'
import { tls } from './rooms/tls.js'
import { wire } from './rooms/wire.js'
import { workers } from './rooms/workers.js'
import type { Seed } from './seed.js'

/** All seeds, by room. Each was chosen from the source, before the tests of its place were read. */
export const SEEDS: readonly Seed[] = [
  ...kernel,
  ...native,
  ...wire,
  ...handoff,
  ...listeners,
  ...os,
  ...serviceManager,
  ...connections,
  ...holder,
  ...daemon,
  ...member,
  ...workers,
  ...state,
  ...http1,
  ...relay,
  ...proxy,
  ...run,
  ...cli,
  ...tls,
]
