/**
 * The module-level variables of `src` that belong to one process. The simulation gives each process its own values. All other module-level variables
 * are constants, scratch memory within one call, caches, or keyed by objects of one process: see HARMLESS.
 */
export const OWN: Readonly<Record<string, readonly string[]>> = {
  'base/at-exit': ['acts'],
  'base/own-instance': ['OWN_INSTANCE'],
  'kernel/owned': ['listeners'],
  'kernel/polled-socket': ['polledSet'],
  'member/operator/announcer': ['SELF_MAIN'],
  'member/lifecycle/shutdown': ['activeMembers', 'unfinished'],
  'member/status': ['processStartedAt'],
  'os/command-line': ['startedAs'],
  'os/limits': ['lastLimits'],
  'os/main-process': ['ownKind'],
  'os/service-manager/passed-sockets': ['ours'],
  'state/forward-queue': ['requestIds'],
  'state/time-slices': ['turnStartedAt'],
  'versions/exit-reason': ['reasonFile', 'isStartedSuccessor'],
}

/** The other module-level variables that can change, with the reason why processes may share them. */
export const HARMLESS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'base/large-collections': { lastKey: 'cache of a pure function', lastShard: 'cache of a pure function' },
  'base/server-stage': {
    listener: 'set by the file that loads the library, which is not simulated',
    usualFlags: 'of V8, which has the same flags in all processes',
  },
  'connections/sender': { UNBOUNDED: 'has no limit that it could count' },
  'handoff/holder-state': { NOTHING: 'stays empty' },
  'handoff/member-machine': { NOTHING: 'stays empty' },
  'kernel/addon': { loaded: 'the simulated addon' },
  'kernel/file': { NOTHING: 'is only waited on' },
  'kernel/native': { missing: 'the simulated addon is never missing' },
  'kernel/owned': {
    registry: 'the simulation has no garbage collector',
    foreignConnections: 'all processes have one user',
  },
  'member/listeners/attached-server': { attachedServers: 'keyed by servers, each of one process' },
  'member/listeners/datagram-server': { given: 'keyed by sockets, each of one process' },
  'member/member': { make: 'set once, at the evaluation' },
  'node/http-connections': { cachedListener: 'a function of Node' },
  'member/hosting/embedded-hosting': { NONE: 'stays empty' },
  'node/observed-events': { NONE: 'stays empty' },
  'node/socket-handle': { timerOfSocket: 'a symbol of Node' },
  'node/held-writes': { CORKED: 'by sockets, each of one process' },
  'node/openssl': { connections: 'by sockets, each of one process' },
  'state/digest': { scratchSum: 'scratch memory', range: 'scratch memory', scratch: 'scratch memory' },
  'state/forwarded-write': { NONE: 'stays empty' },
  'state/change-cursor': { NO_RANGES: 'stays empty', NO_BYTES: 'stays empty' },
  'state/records': { at: 'a position within one call', found: 'scratch memory' },
  'wire/channel': { spareBuffers: 'memory without an owner' },
  'wire/foreign-user': { charged: 'within one turn, and all processes have one user' },
  'wire/frame-decoder': { NOTHING: 'stays empty' },
  'tls/ticket-keys': { NONE: 'stays empty' },
  'versions/version-probe': { NO_PROBE: 'does nothing' },
  'holder/hooks': { NEVER: 'is never aborted' },
  'workers/pool': { NEVER_ABORTED: 'is never aborted', NEVER: 'stays pending' },
  'connections/adapters/http-server': { NOTHING: 'stays empty' },
  'member/state/write-receiver': { NO_BYTES: 'stays empty' },
  'wire/link': { remoteErrors: 'keyed by errors' },
  'wire/outbound': { NO_FDS: 'stays empty' },
  'tls13/self-test': { TESTS: 'sockets of Node’s TLS are not simulated' },
}
