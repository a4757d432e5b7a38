import { expect, it } from 'vitest'
import fc from '../lanes/generated.js'
import { FRESH, perLane } from '../lanes/lane.js'
import {
  type Act,
  type Schedule,
  type ServerMode,
  type Settings,
  schedules,
} from '../upstreams-support/schedule.js'
import { play } from '../upstreams-support/world.js'

const RUNS = Number(process.env.FDB_UPSTREAMS_RUNS ?? perLane(40, 5_000))
const OWN_SEED = process.env.FDB_UPSTREAMS_SEED

/** Throws what is wrong, with the story that led to it. */
function judge(schedule: Schedule): void {
  const { wrong, story } = play(schedule)
  if (wrong.length > 0) throw new Error([...wrong, '', ...story].join('\n'))
}

/** A failure prints the seed; `FDB_UPSTREAMS_SEED` plays it again. */
const playAll = (seed: number, runs: number) =>
  fc.assert(fc.property(schedules, judge), { numRuns: runs, seed })

it('give each request a free server, in the order of the requests, through failures, reloads and orders', () => {
  playAll(1, 40)
})

it.runIf(FRESH)(
  'give each request a free server in schedules of a fresh seed too',
  () => {
    const seed = Number(OWN_SEED ?? Date.now() % 2 ** 31)
    console.log(`upstreams: seed ${seed}`)
    playAll(seed, RUNS)
  },
  900_000,
)

const DEFAULTS: Settings = {
  servers: [0, 1],
  backups: [],
  balance: 'round-robin',
  sticky: false,
  connections: 1,
  queue: { requests: 50, timeout: 600 },
  retry: 2,
  resend: 20,
  failures: 3,
  errors: null,
  coolDown: 1000,
  kept: 4096,
  idle: 4000,
  age: null,
  connect: 100,
  response: 300,
  check: false,
  slowStart: false,
  proxyProtocol: false,
}
const asks = (answerMs: number, rest: Partial<Extract<Act, { kind: 'client' }>> = {}): Act => ({
  ...{ kind: 'client', edge: 0, requests: 1, post: false, answerMs, last: false, patience: null },
  ...{ leaves: 'FIN', changed: false, cookie: null },
  ...rest,
})
const turns = (server: number, mode: ServerMode): Act => ({
  kind: 'server',
  server,
  mode,
})

const reloads = (change: Partial<Settings>, lag = 0): Act => ({ kind: 'reload', change, lag })

/** Schedules that once went wrong. */
const FOUND: readonly (readonly [string, Partial<Settings>, number, Schedule['acts'], number?])[] = [
  [
    'without ports, beside a full server, wait for that one alone',
    { servers: [0, 1, 2], queue: { requests: 1, timeout: 200 } },
    1,
    [
      [0, asks(60)],
      [1, { kind: 'shortage', edge: 0, code: 'EADDRNOTAVAIL', ms: 12 }],
      [0, asks(5)],
    ],
  ],
  [
    'whose server dies get one that was full when they came',
    {},
    1,
    [
      [0, turns(1, 'resets')],
      [0, asks(1)],
      [0, asks(60)],
      [0, asks(1)],
    ],
  ],
  [
    'whose server does not accept get one that was full when they came',
    { queue: null, resend: 0 },
    1,
    [
      [0, turns(1, 'silent')],
      [0, asks(5)],
      [0, asks(1)],
      [0, asks(1)],
    ],
  ],
  [
    'that may have killed two servers get no third one, over a kept connection either',
    { servers: [0, 1, 2], connections: null },
    1,
    [
      [0, asks(1)],
      [10, asks(1)],
      [10, asks(1)],
      [10, turns(1, 'resets')],
      [0, turns(2, 'resets')],
      [0, asks(50)],
      [1, turns(0, 'refuses')],
    ],
  ],
  [
    'that find a server full are no trial of it',
    { connections: 1, queue: null, failures: 1, coolDown: 60, resend: 0 },
    1,
    [
      [0, turns(0, 'silent')],
      [0, asks(1)],
      [0, asks(1)],
      [101, turns(0, 'resets')],
      [30, asks(1, { post: true })],
      [0, asks(1)],
      [70, asks(1)],
      [0, asks(1)],
      [70, asks(1)],
      [0, asks(1)],
    ],
  ],
  [
    'that wait get a server whose cool-down is over',
    { failures: 1, coolDown: 60 },
    1,
    [
      [0, turns(1, 'refuses')],
      [0, asks(110)],
      [0, asks(1)],
      [5, turns(1, 'up')],
    ],
  ],
  [
    'of other processes do not let one beyond a limit that a reload has set',
    { connections: null, servers: [0] },
    2,
    [
      [0, asks(20)],
      [1, { kind: 'reload', change: { connections: 1, queue: { requests: 50, timeout: 600 } }, lag: 0 }],
      [0, asks(1)],
    ],
  ],
  [
    'do not replace idle connections beyond a limit that a reload has lowered',
    { connections: 2, servers: [0], idle: 20 },
    2,
    [
      [0, asks(1)],
      [0, asks(1)],
      [1, { kind: 'reload', change: { connections: 1 }, lag: 0 }],
      [21, asks(5)],
      [0, asks(5)],
    ],
  ],
  [
    'that find a server full in last resort end no trial of it, and hear that another one is as good',
    { servers: [0], queue: null, response: 100 },
    1,
    [
      [0, turns(3, 'hangs')],
      [0, reloads({ servers: [0, 3] })],
      [0, turns(0, 'closes')],
      [0, asks(0)],
      [0, asks(1)],
      [1, reloads({ queue: { requests: 50, timeout: 600 }, failures: 2, coolDown: 60, response: 300 })],
      [0, asks(0)],
      [0, reloads({ connections: 2 })],
      [29, asks(1)],
      [361, asks(1)],
      [0, asks(0)],
      [41, asks(0)],
      [21, { kind: 'none' }],
    ],
  ],
  [
    'take no place beyond a lowered limit from an idle connection',
    { servers: [0, 2], balance: 'hash:address', connections: 3, queue: null, idle: 100, response: 100 },
    2,
    [
      [0, asks(1, { edge: 1, requests: 3 })],
      [2, reloads({ connections: 1 }, 7)],
      [108, asks(71, { post: true })],
      [2, asks(5, { edge: 1, last: true })],
    ],
    169_428,
  ],
  [
    'that come behind those of a removed queue wait for a free place',
    { servers: [0], kept: 0 },
    1,
    [
      [0, asks(20)],
      [0, asks(30)],
      [0, asks(5)],
      [1, reloads({ queue: null })],
      [20, asks(1)],
    ],
  ],
  [
    'that wait for another process go to no server that was removed',
    { servers: [0], queue: null },
    2,
    [
      [0, asks(5, { edge: 1 })],
      [0, asks(1)],
      [1, { kind: 'reload', change: { servers: [1] }, lag: 0 }],
    ],
  ],
]

for (const [title, settings, edges, acts, seed = 1] of FOUND)
  it(`requests ${title}`, () => {
    const { wrong, story } = play({ seed, edges, settings: { ...DEFAULTS, ...settings }, acts })
    expect(wrong, story.join('\n')).toEqual([])
  })
