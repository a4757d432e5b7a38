/**
 * A room of `src`: a folder, a file, or both. The rooms are listed from the ground up; a file imports only from its own room and
 * from rooms above it in the list. `CONTRIBUTING.md` has the same list as its table.
 */
export interface Room {
  readonly name: string
  /** Below `src`; default: the folder of that name. */
  readonly places?: readonly string[]
  readonly about: string
  /** It imports from no rooms but these. */
  readonly only?: readonly string[]
  /** Other rooms import this file of it and no other. */
  readonly door?: string
  /** Packages that it may use. */
  readonly packages?: readonly string[]
}

export const ROOMS: readonly Room[] = [
  {
    name: 'proto',
    about:
      'the wire and the records of the state, generated from `proto/*.proto`; `message.ts` is what all messages share',
    only: [],
    packages: ['protobufjs'],
  },
  {
    name: 'errors',
    places: ['errors', 'errors.ts'],
    about: 'what is thrown, by codes: `fd-broker/errors`',
    only: [],
  },
  {
    name: 'base',
    about:
      'exponential backoff, options checked by name, durations, addresses, the logger that is taken, a name of one’s own, what is loaded when it is asked for, large lists and maps: for every room',
    only: ['errors'],
    packages: ['js-yaml', 'msgpackr', 'yaml'],
  },
  {
    name: 'config',
    about: 'a configuration in YAML or JSON: read, and checked so that what is wrong names its place',
    only: ['errors', 'base'],
    packages: ['js-yaml', 'yaml'],
  },
  {
    name: 'kernel',
    about:
      'the addon, and all that is a number to the kernel: owned descriptors, pidfds, memory files, locks',
    only: ['errors', 'base'],
    door: 'index.ts',
  },
  {
    name: 'node',
    about: 'every look inside Node’s own objects, each tried at the start',
    only: ['errors', 'base', 'kernel'],
  },
  {
    name: 'probing',
    about: 'questions by which a version is known to be well: http, tcp, a command',
    only: ['kernel', 'node'],
  },
  {
    name: 'listeners',
    about: 'listener specifications, binding, who holds an address',
    only: ['errors', 'base', 'kernel'],
  },
  {
    name: 'os',
    about:
      'the operating-system process and its surroundings: control path, limits, who lives; `service-manager/`: what systemd is told of a service, and what it gives to one',
    only: ['errors', 'base', 'kernel', 'listeners'],
  },
  {
    name: 'handoff',
    about: 'pure: the messages of a handoff, its state machines, their rules and phases',
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
    only: ['proto', 'errors', 'base', 'kernel'],
    packages: ['msgpackr', 'protobufjs'],
  },
  {
    name: 'connections',
    about: 'live connections that move to the next version; `adapters/`: one for each kind of server',
  },
  {
    name: 'operator',
    places: ['operator', 'operator.ts'],
    about: 'what operators ask, and what they are answered: `fd-broker/operator`',
  },
  {
    name: 'versions',
    about:
      'starts a version of a program, knows when it is ready, promotes it or ends it, and starts it again',
    only: ['errors', 'base', 'kernel', 'probing', 'listeners', 'os', 'handoff', 'wire', 'operator'],
  },
  { name: 'holder', about: 'who owns the registry and decides' },
  { name: 'member', about: 'what an embedding server is: join, listen, ready, retire' },
  {
    name: 'daemon',
    about:
      'holds services for others (`service/`: what it holds of one), and is a member of one of its own: so the next daemon takes over',
  },
  {
    name: 'workers',
    about: 'a main process: starts the processes that serve one service together, and holds what they serve',
  },
  { name: 'tls', about: 'session tickets that the next version opens too' },
  { name: 'index', places: ['index.ts'], about: 'the public face: `fd-broker`' },
  {
    name: 'adapter',
    places: ['adapter.ts'],
    about: 'the public face for a relay of one’s own: `fd-broker/adapter`',
  },
  {
    name: 'stores',
    about: 'sessions and key-value stores over a section: `fd-broker/stores`',
    only: ['errors', 'base', 'state', 'member'],
  },
  {
    name: 'auto',
    about: 'the servers of a program that knows nothing of us become listeners of a member: `fd-broker/auto`',
    only: ['errors', 'base', 'kernel', 'node', 'listeners', 'os', 'operator', 'member', 'index'],
  },
  { name: 'http1', about: 'pure: heads, framing, rewriting', only: ['errors'] },
  {
    name: 'relay',
    about:
      'one connection between two sockets, at any byte; requests of a process to itself before others come',
    only: ['proto', 'errors', 'base', 'kernel', 'node', 'adapter', 'http1'],
  },
  {
    name: 'proxy',
    about: 'the reference proxy: `fd-broker/proxy`',
    only: ['proto', 'errors', 'base', 'config', 'node', 'probing', 'index', 'adapter', 'relay'],
    packages: ['protobufjs'],
  },
  {
    name: 'run',
    about: 'starts, judges and replaces programs that need not know us: `fd-broker run`',
    only: [
      'errors',
      'base',
      'kernel',
      'probing',
      'listeners',
      'os',
      'versions',
      'wire',
      'handoff',
      'operator',
      'holder',
    ],
  },
  { name: 'cli', about: 'commands; thin', packages: ['commander', 'pino', 'rotating-file-stream', 'yaml'] },
  {
    name: 'code-cache',
    about: 'starts the command with the code that V8 has compiled before',
    only: ['base', 'cli'],
  },
]

/** What is said in a few places only, and how it is recognised in code. */
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
    to: ['kernel'],
  },
  {
    what: "the inside of one of Node's own objects",
    pattern:
      /\._[a-zA-Z]\w*|\[\s*['"`]_[a-zA-Z]\w*|\b_[a-zA-Z]\w*\?:|[{;]\s*_[a-zA-Z]\w*\s*(?::|\})|\.parser\b|\bparser\?:|\bonIncoming\b|\bwriteQueueSize\b|\breadStop\b|\buseUserBuffer\b|\bgetOwnPropertySymbols\b|\bReflect\.ownKeys\b|\bprocess\.binding\b|\bnode:internal\b/,
    to: ['node'],
  },
]

/** Lines of a file. */
export const MOST_LINES = 600

/** What the unit tests know of the inside of rooms: each number only falls, as a test goes through the door of its room. */
export const UNIT_TESTS = { imported: 219, casts: 33 }

/** How much of the sources and pages takes two readings (`words.ts`): each number only falls. */
export const HARD_WORDS = { comments: 0, pronouns: 65, pages: 1, names: 0 }

/** Files and folders at the top of the repository: the number only falls. */
export const ROOT_ENTRIES = 20
