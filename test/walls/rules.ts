import type { HardPlaces } from './words.js'

/**
 * A room of `src`: a folder, a file, or both. The rooms are listed from the ground up; a file imports only from its own room and
 * from rooms above it in the list. `CONTRIBUTING.md` has the same list as its table.
 */
export interface Room {
  readonly name: string
  /** Below `src`; default: the folder of that name. */
  readonly places?: readonly string[]
  readonly about: string
  /** The only rooms from which this one imports. */
  readonly only?: readonly string[]
  /** Other rooms import this file of it and no other. */
  readonly door?: string
  /** Packages that it may use. */
  readonly packages?: readonly string[]
  /** The folders from the ground up, each with a wall of its own. */
  readonly folders?: readonly Folder[]
}

/** A folder of a room, which imports only from itself and from folders above it in the list. */
export interface Folder {
  /** Below the room; `.`: the files right in the room. */
  readonly name: string
  readonly about: string
  /** Only these files of it are imported from outside. */
  readonly open: readonly string[]
}

export const ROOMS: readonly Room[] = [
  {
    name: 'proto',
    about:
      'messages and records of the state, generated from `proto/*.proto`; `message.ts`: the base of all messages',
    only: [],
    packages: ['protobufjs'],
  },
  {
    name: 'errors',
    places: ['errors', 'errors.ts'],
    about: 'errors with codes: `fd-broker/errors`',
    only: [],
  },
  {
    name: 'base',
    about:
      'for every room: exponential backoff, durations, ordered and lazy work, loggers, counts, large lists and maps',
    only: ['errors'],
    packages: ['js-yaml', 'msgpackr'],
  },
  {
    name: 'checks',
    about: 'checks of values and the shapes of their maps: options of calls, configuration files',
    only: ['errors', 'base'],
  },
  {
    name: 'config',
    about: 'reads a configuration in YAML or JSON; an error names line and key',
    only: ['errors', 'base', 'checks'],
    packages: ['js-yaml'],
  },
  {
    name: 'kernel',
    about: 'the addon and the kernel’s objects: owned descriptors, pidfds, memory files, locks',
    only: ['errors', 'base'],
    door: 'index.ts',
  },
  {
    name: 'node',
    about: 'every use of Node’s internals, each checked at the start',
    only: ['errors', 'base', 'kernel'],
  },
  {
    name: 'tls13',
    about: 'the records of TLS 1.3 of a connection that has moved, and the positions of those that will',
    only: ['proto', 'errors', 'base', 'kernel', 'node'],
  },
  {
    name: 'probing',
    about: 'health checks of a version or a server: http, tcp, a command',
    only: ['base', 'kernel', 'node'],
  },
  {
    name: 'listeners',
    about: 'listener specifications, binding, the process that holds an address',
    only: ['errors', 'base', 'checks', 'kernel'],
  },
  {
    name: 'os',
    about:
      'processes and their environment: control path, limits, liveness; `service-manager/`: messages to systemd, descriptors from systemd',
    only: ['errors', 'base', 'kernel', 'listeners'],
  },
  {
    name: 'handoff',
    about: 'pure: the messages of a handoff, its state machines, rules and phases',
    only: ['errors', 'base'],
  },
  {
    name: 'wire',
    about: 'frames with descriptors over a Unix stream, the link that carries messages',
    only: ['proto', 'errors', 'base', 'kernel', 'listeners', 'os', 'handoff'],
  },
  {
    name: 'state',
    about: 'sections, segments, the log, the state file',
    only: ['proto', 'errors', 'base', 'checks', 'kernel'],
    packages: ['msgpackr', 'protobufjs'],
  },
  {
    name: 'metrics',
    about: 'counts as state, which all processes and versions add up; their text',
    only: ['errors', 'base', 'state'],
  },
  {
    name: 'events',
    about: 'what happens to a service: the types, and the file that its versions write and hand over',
    only: ['errors', 'base', 'kernel', 'handoff', 'wire'],
  },
  {
    name: 'connections',
    about: 'connections that move to the next version; `adapters/`: one for each kind of server',
  },
  {
    name: 'operator',
    places: ['operator', 'operator.ts'],
    about: 'requests of operators and their answers: `fd-broker/operator`',
  },
  {
    name: 'versions',
    about: 'starts a version of a program, waits until it is ready, promotes or ends it, and starts it again',
    only: ['errors', 'base', 'kernel', 'probing', 'listeners', 'os', 'handoff', 'wire', 'operator'],
  },
  { name: 'holder', about: 'owns the registry and decides which process serves' },
  {
    name: 'member',
    about: 'the embedded server’s side: join, listen, ready, retire',
    folders: [
      {
        name: 'options',
        about: 'options of `join()` and of a member, checked',
        open: ['member-options.ts', 'options.ts'],
      },
      {
        name: 'lifecycle',
        about:
          'phases of one process: state machine, ready, work while serving, heartbeats, end; the interface of hosting',
        open: [
          'answers.ts',
          'cannot-serve.ts',
          'end-order.ts',
          'heartbeat.ts',
          'hosting.ts',
          'leadership.ts',
          'process-machine.ts',
          'readiness.ts',
          'shutdown.ts',
          'takeover-timing.ts',
        ],
      },
      {
        name: 'listeners',
        about: 'listeners and descriptors by name: bound, adopted, served, passed to workers',
        open: [
          'attached-datagrams.ts',
          'forced-closes.ts',
          'holdings.ts',
          'listener.ts',
          'own-listeners.ts',
          'serve-options.ts',
          'worker-orders.ts',
        ],
      },
      {
        name: 'state',
        about: 'the state of this process: written, read from others, forwarded after a seal',
        open: [
          'fenced-writes.ts',
          'followed-state.ts',
          'log-space.ts',
          'own-state.ts',
          'serving-link.ts',
          'write-receiver.ts',
        ],
      },
      {
        name: 'drain',
        about: 'connections of a replaced process: moved, announced, closed; reports of older generations',
        open: [
          'connection-drain.ts',
          'drain-orders.ts',
          'last-requests.ts',
          'moves.ts',
          'older-generations.ts',
          'own-drain.ts',
          'report-link.ts',
        ],
      },
      {
        name: 'hosting',
        about: 'the process that decides: joined over a link, or this one; the control socket',
        open: [
          'back-sender.ts',
          'control-clients.ts',
          'control-socket.ts',
          'daemon-entries.ts',
          'daemon-hosting.ts',
          'daemon-return.ts',
          'embedded-hosting.ts',
          'holder-link.ts',
          'holder-messages.ts',
          'joined-holder.ts',
          'offer-receiver.ts',
          'operator-requests.ts',
          'pauses.ts',
          'rollback-entries.ts',
          'seal-watch.ts',
          'standby.ts',
          'to-holder.ts',
        ],
      },
      {
        name: 'operator',
        about: 'commands, upgrades that this process starts, announcements to the service manager',
        open: [
          'announcer.ts',
          'commands.ts',
          'fd-store-mirror.ts',
          'member-metrics.ts',
          'reloading.ts',
          'rollback.ts',
          'status-texts.ts',
          'stay.ts',
          'upgrades.ts',
        ],
      },
      {
        name: '.',
        about: 'the public `Member`, its driver, and `runtime.ts`, which makes and connects the parts',
        open: ['driver.ts', 'member.ts', 'runtime.ts'],
      },
      {
        name: 'joining',
        about: '`join()`: finds the incumbent, joins it, or starts alone',
        open: ['hung-incumbent.ts', 'join.ts', 'process-member.ts'],
      },
    ],
  },
  {
    name: 'daemon',
    about:
      'holds services for others (`service/`: one of them), and is a member of its own service, so that the next daemon can take over',
  },
  {
    name: 'workers',
    about:
      'the main process, which starts the processes that serve one service together, and holds their listeners',
  },
  { name: 'tls', about: 'keys of session tickets, shared with the next version' },
  { name: 'index', places: ['index.ts'], about: 'the public entry `fd-broker`' },
  {
    name: 'adapter',
    places: ['adapter.ts'],
    about: 'the public entry for your own relay: `fd-broker/adapter`',
  },
  {
    name: 'stores',
    about: 'stores of sessions and key-value pairs in a section: `fd-broker/stores`',
    only: ['errors', 'base', 'checks', 'state', 'member'],
  },
  {
    name: 'sources',
    about: 'sections that follow a store outside of the service, such as etcd: `fd-broker/sources`',
    only: ['errors', 'base', 'checks', 'state', 'member'],
  },
  {
    name: 'streams',
    about:
      'moves answers of an `http.Server` that are being streamed, and has channels of server-sent events: `fd-broker/streams`',
    only: ['proto', 'errors', 'base', 'checks', 'node', 'connections', 'state', 'member'],
  },
  {
    name: 'ws',
    about:
      'moves the WebSockets of the package `ws`: `fd-broker/ws`; `internals.ts`: the private side of `ws`',
    only: ['proto', 'errors', 'base', 'checks', 'node', 'connections'],
  },
  {
    name: 'socket-io',
    about:
      'lets sessions of socket.io continue in the next version: `fd-broker/socket.io`; `internals.ts`: the private side of socket.io',
    only: ['errors', 'base', 'checks', 'node', 'state', 'member', 'ws'],
  },
  {
    name: 'auto',
    about: 'makes the servers of an unchanged program listeners of a member: `fd-broker/auto`',
    only: ['errors', 'base', 'checks', 'kernel', 'node', 'listeners', 'os', 'operator', 'member', 'index'],
  },
  { name: 'http1', about: 'pure: heads, framing, rewriting', only: ['errors'] },
  {
    name: 'relay',
    about: 'one connection between two sockets, at any byte; requests by which a process warms itself up',
    only: ['proto', 'errors', 'base', 'kernel', 'node', 'tls13', 'adapter', 'http1'],
  },
  {
    name: 'proxy',
    about: 'the reference proxy: `fd-broker/proxy`',
    only: [
      'proto',
      'errors',
      'base',
      'checks',
      'config',
      'node',
      'tls13',
      'probing',
      'metrics',
      'sources',
      'index',
      'adapter',
      'relay',
    ],
    packages: ['protobufjs'],
  },
  {
    name: 'run',
    about: 'starts, checks and replaces programs that do not use fd-broker: `fd-broker run`',
    only: [
      'errors',
      'base',
      'checks',
      'kernel',
      'probing',
      'listeners',
      'os',
      'versions',
      'wire',
      'handoff',
      'events',
      'operator',
      'holder',
    ],
  },
  {
    name: 'timeline',
    about: 'a page that shows one upgrade: phases and connections of each process',
    only: [],
    packages: ['echarts'],
  },
  {
    name: 'convert',
    about: 'translates configurations of nginx, HAProxy and sozu for the proxy',
    only: ['errors'],
    packages: ['js-yaml', 'smol-toml'],
  },
  {
    name: 'cli',
    about: 'the commands; thin',
    packages: ['commander', 'fast-string-truncated-width', 'pino', 'rotating-file-stream'],
  },
  {
    name: 'code-cache',
    about: 'loads the library and the command with V8’s cached code',
    only: ['base', 'cli'],
  },
]

/** Code that may stand in a few places only, and its pattern. */
export interface Confined {
  readonly what: string
  readonly pattern: RegExp
  /** Folders or files below `src`. */
  readonly to: readonly string[]
}

export const CONFINED: readonly Confined[] = [
  {
    what: 'the addon',
    pattern: /\bnative\b(?!:)|\bloadAddon\b/,
    to: ['kernel'],
  },
  {
    what: 'a raw descriptor number',
    pattern:
      /\.raw\b|\bOwnedFd\.(?:own|duplicate)\b|\bfd\??: number\b|\b[hH]andle\.fd\b|\b(?:open|close)Sync\b|\b(?:fd|own|dup\(\))\.release\(/,
    // The program is read before there is a kernel room.
    to: ['kernel', 'code-cache/code-cache.ts'],
  },
  {
    what: "the inside of one of Node's own objects",
    pattern:
      /\._[a-zA-Z]\w*|\[\s*['"`]_[a-zA-Z]\w*|\b_[a-zA-Z]\w*\?:|[{;]\s*_[a-zA-Z]\w*\s*(?::|\})|\.parser\b|\bparser\?:|\bonIncoming\b|\bwriteQueueSize\b|\breadStop\b|\buseUserBuffer\b|\bprocess\.binding\b|\bnode:internal\b/,
    to: ['node', 'ws/internals.ts', 'socket-io/internals.ts'],
  },
  {
    what: 'a list of hidden fields',
    pattern: /\bgetOwnPropertySymbols\b|\bReflect\.ownKeys\b/,
    // The codecs look for symbols in the values of programs.
    to: ['node', 'ws/internals.ts', 'socket-io/internals.ts', 'state/codec.ts'],
  },
]

/** Lines of a file. */
export const MOST_LINES = 600

/** Values that a part of these rooms gets when it is made. `more`: the parts that get more, which are no parts of others, with their count; none is added. */
export const PARTS = {
  rooms: ['member', 'holder', 'daemon'],
  most: 6,
  more: [
    'src/member/hosting/holder-link.ts HolderFacts: 8', // the fields of Welcome
    'src/member/runtime.ts RuntimeDriver: 11', // the events and orders of the driver
  ],
} as const

/** The unit tests' knowledge of the inside of rooms: each number only falls, as a test goes through the door of its room. */
export const UNIT_TESTS = { imported: 236, casts: 17 }

/** How much of the sources and pages takes two readings (`words.ts`): each number only falls. */
export const HARD_WORDS = { comments: 0, pronouns: 3, pages: 1, names: 0 }

/** The same outside `src` and `docs`, by folder; `titles` of tests and suites. */
export const HARD_PLACES: Readonly<Record<string, Readonly<Record<keyof HardPlaces, number>>>> = {
  test: { comments: 0, pronouns: 0, names: 0, titles: 0 },
  bench: { comments: 0, pronouns: 0, names: 0, titles: 0 },
  tools: { comments: 0, pronouns: 0, names: 0, titles: 0 },
  native: { comments: 0, pronouns: 0, names: 0, titles: 0 },
  'proto/clients': { comments: 0, pronouns: 0, names: 0, titles: 0 },
}

/** Files and folders at the top of the repository: the number only falls. */
export const ROOT_ENTRIES = 20
