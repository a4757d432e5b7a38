import { channel } from './rooms/channel.js'
import { cli } from './rooms/cli.js'
import { daemon } from './rooms/daemon.js'
import { holder } from './rooms/holder.js'
import { http1 } from './rooms/http1.js'
import { kernel } from './rooms/kernel.js'
import { listeners } from './rooms/listeners.js'
import { member } from './rooms/member.js'
import { moving } from './rooms/moving.js'
import { native } from './rooms/native.js'
import { processRoom } from './rooms/process.js'
import { protocol } from './rooms/protocol.js'
import { proxy } from './rooms/proxy.js'
import { relay } from './rooms/relay.js'
import { state } from './rooms/state.js'
import { supervised } from './rooms/supervised.js'
import { supervisor } from './rooms/supervisor.js'
import { tls } from './rooms/tls.js'
import { workers } from './rooms/workers.js'
import type { Seed } from './seed.js'

/** All seeds, by room. Each was chosen from the source, before the tests of its place were read. */
export const SEEDS: readonly Seed[] = [
  ...kernel,
  ...native,
  ...channel,
  ...protocol,
  ...listeners,
  ...processRoom,
  ...supervised,
  ...moving,
  ...holder,
  ...daemon,
  ...member,
  ...workers,
  ...state,
  ...http1,
  ...relay,
  ...proxy,
  ...supervisor,
  ...cli,
  ...tls,
]
