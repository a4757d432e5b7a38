import type { Edit } from './bundle.js'

/** Seeded defects that one seed of a kind shows, by the first one. The gate tries the first defects. */
export const SHOWN: readonly [string, Edit, string, from: number][] = [
  [
    'once-only work that is not stopped for the next version',
    ['member/lifecycle/leadership.ts', '      this.#run ??= this.#stopAll()\n', ''],
    'kill',
    1,
  ],
  [
    'an order to end that is not kept',
    ['member/lifecycle/end-order.ts', '    this.#endAt = now + ms\n', '\n'],
    'close',
    1,
  ],
  [
    'an acknowledgement of a durable change before the sync',
    ['state/file/copy.ts', '      await this.#handle.datasync()\n', ''],
    'cut',
    1,
  ],
  [
    'once-only work that goes on while the old version may serve again',
    ['member/hosting/seal-watch.ts', '    if (this.isNeeded) void leadership.quiesce()\n', ''],
    'break',
    32,
  ],
  [
    'once-only work of a member whose daemon may give the right to the old version unheard',
    ['member/driver.ts', '      if (hosting.mayLoseUnheard) void leadership.quiesce()\n', ''],
    'workers',
    159939832,
  ],
  [
    'a second probation that ends at once',
    [
      'holder/probation.ts',
      '    this.#since = performance.now()\n    this.#ticker',
      '    this.#since ||= performance.now()\n    this.#ticker',
    ],
    'kill',
    4,
  ],
  [
    'a program that ends amid clients whose commit was undone',
    [
      'member/driver.ts',
      'if (!readiness.served && !hasClients) readiness.fail',
      'if (!readiness.served) readiness.fail',
    ],
    'undone',
    2017,
  ],
  [
    'a program that ends amid clients that it accepted as an orphan of a daemon',
    [
      'member/driver.ts',
      'accepting || listeners.all.some(({ connections }) => connections > 0)',
      'accepting',
    ],
    'undone',
    6,
  ],
  [
    'an upgrade by a version that leaves, whose successor is ended when it serves',
    [
      'member/operator/upgrades.ts',
      'if (shutdown.closing)\n      throw',
      'if (shutdown.closing && false)\n      throw',
    ],
    'orders',
    10,
  ],
  [
    'a TLS connection that moves without the rest of its last record',
    ['tls13/record-layer.ts', 'joined(this.#sealed, sealed)', 'joined(this.#sealed)'],
    'kill',
    3,
  ],
  [
    'clients that are reset because a service ends',
    [
      'member/listeners/own-listeners.ts',
      'if (accepts && entry !== undefined) listener.acceptWaiting(entry.fd)',
      '',
    ],
    'queue',
    7,
  ],
  [
    'clients that are reset because a daemon closes a listener after its member',
    ['member/listeners/own-listeners.ts', 'accepting ? holdings.dropped', 'false ? holdings.dropped'],
    'queue',
    30,
  ],
  [
    'a pid file that is not put back after a rollback',
    [
      'os/pid-file.ts',
      '    clearInterval(this.#timer)\n    this.#timer = undefined\n',
      '    clearInterval(this.#timer)\n',
    ],
    'operator',
    7,
  ],
  [
    'a pid file that names a version whose commit was undone',
    [
      'member/operator/announcer.ts',
      '      this.#epoch = epoch\n      this.#pidFile?.write()\n    }',
      '    }',
    ],
    'undone',
    2035,
  ],
  [
    'a descriptor that a version keeps when it has left its service',
    ['member/driver.ts', '    listeners.close()\n    holdings.close()', '    listeners.close()'],
    'kill',
    1,
  ],
  [
    'a next version beside one that serves in a full control group',
    ['member/operator/upgrades.ts', 'if (!isStandIn) checkMemoryRoom', 'if (false) checkMemoryRoom'],
    'full',
    1,
  ],
  [
    'a next version that is refused for want of memory where none serves',
    ['member/operator/upgrades.ts', 'if (!isStandIn) checkMemoryRoom', 'checkMemoryRoom'],
    'hung',
    1,
  ],
  [
    'a joined version that serves beside the one of --kill-stuck',
    ['member/hosting/joined-holder.ts', "isClaimed ? 'alive' : 'dead'", "'dead'"],
    'hung',
    1,
  ],
]

/** Shown by seed 3014 of the kind `moves`, or one soon after it. */
export const MOVED_TO_ENDING: readonly Edit[] = [
  [
    'member/drain/drain-orders.ts',
    '  link.post({ endDrain: { timeoutMs } })\n  refuseMoves(link)',
    '  link.post({ endDrain: { timeoutMs } })',
  ],
  [
    'member/drain/older-generations.ts',
    'if (envelope.moveRequest && this.#endsWithin !== null) refuseMoves(link)\n        else if',
    'if',
  ],
  ['member/drain/moves.ts', 'if (!this.#takes) {', 'if (this.#leaving) {'],
]

/** Shown by one of the first 1,500 seeds of a kind. */
export const SHOWN_AT_NIGHT: readonly [string, Edit, string][] = [
  [
    'a service that begins without its state if its worker dies before it serves again',
    ['handoff/holder-machine.ts', "phase: 'idle', epoch: state.grant }", "phase: 'idle' }"],
    'workers',
  ],
  [
    'connections that no worker accepts while their own is missing',
    ['workers/pool.ts', '    this.#unserved.update(this.#closing ? [] : this.#slots)\n', ''],
    'workers',
  ],
  [
    'a supervisor that ends when it lacks memory for the connection of an operator',
    [
      'run/control.ts',
      '.catch(error => {\n            fd.close()',
      '.catch(error => {\n            throw error',
    ],
    'run',
  ],
  [
    'an upgrade that fails because the guardian of the supervisor cannot be told of the version',
    [
      'run/death-guard.ts',
      "      this.#warn(error, 'the guardian could not be told of a version')\n",
      '      throw error\n',
    ],
    'run',
  ],
  [
    'a state file that replaces the present one before it is synced',
    [
      'state/file/state-file.ts',
      'Promise.all([next.isAt(next.path), next.sync(), others()])',
      'Promise.all([next.isAt(next.path), others()])',
    ],
    'cut',
  ],
  [
    'connections that are closed, not moved, by a close() while the next version joins',
    [
      'member/lifecycle/shutdown.ts',
      '  retire(): void {\n    this.#retired = true',
      '  retire(): void {\n    if (!this.#closing) this.#retired = true',
    ],
    'close',
  ],
  [
    'state that is not read again after a shortage of descriptors',
    [
      'member/state/fenced-writes.ts',
      '      if (!isDescriptorShortage(error)) throw error\n      this.#shortage.retryLater',
      '      throw error\n      this.#shortage.retryLater',
    ],
    'lack',
  ],
  [
    'once-only work that starts when another version may serve unheard',
    ['member/driver.ts', ' || machine.sealed || !hosting.isHeard', ''],
    'break',
  ],
  [
    'a takeover that waits for seals which this version cannot set',
    ['member/driver.ts', 'segmentSet.sealForDead(from, below)', 'segmentSet.seal(from, below)'],
    'alone',
  ],
  [
    'once-only work that does not start again after the death of the old version',
    ['member/driver.ts', 'this.#becomeHolder()\n      this.startWork()', 'this.#becomeHolder()'],
    'kill',
  ],
  [
    'a state file whose new name is not synced',
    ['state/file/copy.ts', 'await folder?.sync()', 'folder'],
    'cut',
  ],
  [
    'a mark that is written before the bytes that it covers are synced',
    ['state/file/copy.ts', 'if (!this.installed) await this.#mark(wholeAt)', 'await this.#mark(wholeAt)'],
    'cut',
  ],
  [
    'a daemon that never serves again after the next one has failed',
    [
      'daemon/reception.ts',
      "    this.#stage = 'opening'\n    this.open(() => isCommitted && this.#context?.restart())",
      '',
    ],
    'upgrade',
  ],
  [
    'a daemon that goes on with members that the failed next one has given segments',
    ['daemon/reception.ts', 'isCommitted && this.#context?.restart()', '{}'],
    'upgrade',
  ],
  [
    'a daemon that takes a later next one for the one that has failed',
    [
      'daemon/reception.ts',
      "      this.#stage = 'open'\n      this.#admitted = false",
      "      this.#stage = 'open'",
    ],
    'upgrade',
  ],
  [
    'a daemon that ignores that it serves again',
    ['daemon/daemon.ts', "    member.on('reinstated', onServing)\n", ''],
    'upgrade',
  ],
  [
    'services that stay paused after the next daemon has failed',
    ['daemon/services.ts', '    for (const service of this.all) service.resume()\n', ''],
    'upgrade',
  ],
  [
    'older state in a version that drains, after segments that it lacks were merged',
    ['holder/segment-set.ts', 'hello.capabilities?.includes(READS_SNAPSHOTS) === true', 'false'],
    'upgrade',
  ],
  [
    'an upgrade that no later one may follow after its end',
    [
      'member/operator/upgrades.ts',
      '      this.#underWay = null\n      this.#attempt = null',
      '      this.#attempt = null',
    ],
    'kill',
  ],
  [
    'files of an upgrade that remain after its end',
    ['versions/upgrade-attempt.ts', '      child.exitReason.close()\n    })', '    })'],
    'slow',
  ],
  [
    'a state file that is written on after a failed sync',
    ['state/file/copy.ts', '      this.lost = true\n      throw error', '      throw error'],
    'disk',
  ],
  [
    'TLS ticket keys that open no earlier ticket',
    ['tls/ticket-keys.ts', 'this.#createKeys((stored ?? this.#current).keys)', 'this.#createKeys()'],
    'kill',
  ],
  [
    'TLS ticket keys of a next version that takes none from the state',
    [
      'tls/ticket-keys.ts',
      '    const stored = this.#readStored()\n    this.#current',
      '    const stored = null as StoredKeys | null\n    this.#current',
    ],
    'kill',
  ],
  [
    'named descriptors that a rollback loses',
    ['member/hosting/embedded-hosting.ts', '    this.#deps.rollback.takeBack()\n', ''],
    'operator',
  ],
  [
    'a version that was told to end, and gets health checks and its long time to end',
    ['run/supervisor.ts', "    version.stopProbe(why === 'failed')\n", ''],
    'run',
  ],
  [
    'a worker that is refused for want of memory in place of one that has ended',
    ['workers/worker-slot.ts', 'if (this.owner !== null || this.isAdded) check', 'check'],
    'workers',
  ],
  [
    'a version of a supervisor beside one that serves in a full control group',
    [
      'run/supervisor.ts',
      'if (serving(this.#state) !== undefined) checkMemoryRoom',
      'if (false) checkMemoryRoom',
    ],
    'run',
  ],
]
