import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { serveDaemon } from '../../src/daemon/daemon.js'
import type { Action } from '../../src/daemon/policy/policy.js'
import { OWNERS_ONLY } from '../../src/daemon/policy/policy.js'
import { bindSocket, memoryFile, type OwnedFd, writeAllAt } from '../../src/kernel/index.js'
import { join } from '../../src/member/joining/join.js'
import { OperatorClient } from '../../src/operator/client.js'
import * as serviceCommands from '../../src/operator/service-commands.js'
import { fdbroker } from '../../src/proto/wire.js'
import { json } from '../../src/state/codec.js'
import { STATE_COMMANDS } from '../../src/state/commands.js'
import { defineSection } from '../../src/state/schema.js'
import type { Section } from '../../src/state/section.js'
import { FORWARDS_WRITES, type WireBody } from '../../src/wire/link.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { hello } from '../processes/raw-peer.js'
import { type Heard, needsRoot, SecondUser } from '../processes/second-user.js'

const { DescriptorRequest, Envelope, Intent } = fdbroker.wire
const { Op } = DescriptorRequest
const SECURITY = fileURLToPath(new URL('../../.github/SECURITY.md', import.meta.url))
const PROTO = fileURLToPath(new URL('../../proto/wire.proto', import.meta.url))
const DENIED = 'ERR_FDB_DENIED'
const DAEMON = 'fd-broker.daemon'
const TIMES = { probation: 50, heartbeat: 50 }
const FIRST_UID = 12_101

interface Verdict {
  /** One of these rights on the service that is named. Empty: none, as it concerns the caller alone. */
  readonly needs: readonly Action[]
  /** For SECURITY.md: what comes of it with an object of another service, or of another user. */
  readonly foreign: string
}

/** Every operation has a line here, and in SECURITY.md. */
const VERDICTS: Readonly<Record<string, Verdict>> = {
  'intent JOIN': { needs: ['join'], foreign: 'refused; of the daemon itself to all but its user and root' },
  'intent BACK': { needs: ['join'], foreign: 'refused' },
  'intent DRAINING': { needs: ['join'], foreign: 'refused' },
  'intent FOLLOW': {
    needs: ['follow'],
    foreign: 'refused; where it is allowed, copies that it cannot change',
  },
  'intent OPERATE': { needs: [], foreign: 'each question is judged by itself' },
  'descriptor LIST': { needs: ['list'], foreign: 'left out of the list' },
  'descriptor WATCH': { needs: ['list'], foreign: 'left out of the list' },
  'descriptor UNWATCH': { needs: [], foreign: 'ends a watch of its own connection, no other' },
  'descriptor PUT': {
    needs: ['put'],
    foreign: 'refused by name; a foreign pidfd as the lease is watched, no more',
  },
  'descriptor CLAIM': {
    needs: ['claim'],
    foreign: 'refused by name, and with the pidfd of another user’s process',
  },
  'descriptor RELEASE': {
    needs: ['claim'],
    foreign: 'refused by name, and with the pidfd of another user’s process',
  },
  'descriptor REMOVE': { needs: ['remove'], foreign: 'refused' },
  'message statusRequest': { needs: ['list', 'operate'], foreign: 'left out of the status' },
  'message upgradeRequest': { needs: ['operate'], foreign: 'refused' },
  'message cancelUpgrade': { needs: [], foreign: 'cancels upgrades of its own connection, no other' },
  'message command': { needs: ['operate'], foreign: 'refused, whatever the command' },
}

const RIGHTS = Object.keys(OWNERS_ONLY.others.may) as Action[]
const COMMANDS = [
  ...Object.values(serviceCommands).filter(one => typeof one === 'string' && one.includes('.')),
  ...Object.values(STATE_COMMANDS),
] as string[]
/** The messages of an operator; it hears others, and those that members send to each other are ignored: see the last test. */
const OPERATORS = ['statusRequest', 'upgradeRequest', 'cancelUpgrade', 'command']
const ELSEWHERE = ['hello', 'descriptorRequest']

/** All messages that there are, by the definition of the wire. */
function messages(): string[] {
  const [, body = ''] = /message Envelope \{\s*oneof body \{(.*?)\n {2}\}/s.exec(readFileSync(PROTO, 'utf8'))!
  return [...body.matchAll(/^\s*\w+ (\w+) = \d+;/gm)].map(([, name = '']) =>
    name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase()),
  )
}

function operations(): string[] {
  const named = (values: object) =>
    Object.keys(values).filter(name => /^[A-Z]+$/.test(name) && name !== 'UNKNOWN')
  return [
    ...named(Intent).map(name => `intent ${name}`),
    ...named(Op).map(name => `descriptor ${name}`),
    ...OPERATORS.map(name => `message ${name}`),
  ]
}

interface Attempt {
  readonly operation: string
  /** The object's name in a message about a failure. */
  readonly object: string
  readonly bodies: readonly WireBody[]
  readonly answers: readonly string[]
  readonly fds?: readonly string[]
}

function attempt(operation: string, object: string, body: WireBody, fds: string[] = []): Attempt {
  const answers = ['descriptorReply', 'status', 'result', 'commandReply', 'welcome']
  const [kind] = operation.split(' ')
  const bodies = kind === 'intent' ? [body] : [hello('OPERATE', ''), body]
  return { operation, object, bodies, fds, answers: kind === 'intent' ? answers : answers.slice(0, -1) }
}

function descriptor(op: keyof typeof Op, name: string, fds: string[] = [], more: object = {}): Attempt {
  const descriptorRequest = { request: 1, op: Op[op], name, ...more }
  return attempt(`descriptor ${op}`, [name, ...fds].join(' with '), { descriptorRequest }, fds)
}

/** The operations that take a name, with the objects of this service. */
function attemptsOn(service: string, victim: number, commands: readonly string[]): Attempt[] {
  const intents = ['JOIN', 'BACK', 'DRAINING', 'FOLLOW'] as const
  const { hello: said } = hello('JOIN', service)
  const capabilities = [FORWARDS_WRITES]
  return [
    ...intents.map(intent =>
      attempt(`intent ${intent}`, service, { hello: { ...said, intent: Intent[intent], capabilities } }),
    ),
    descriptor('PUT', `${service}/new`, ['memory']),
    descriptor('PUT', `${service}/free`, ['memory'], { replace: true }),
    ...['held', 'free', 'web'].flatMap(name => [
      descriptor('CLAIM', `${service}/${name}`, [], { shared: true }),
      descriptor('RELEASE', `${service}/${name}`),
      descriptor('REMOVE', `${service}/${name}`),
    ]),
    descriptor('CLAIM', `${service}/held`, [`pidfd:${victim}`]),
    descriptor('RELEASE', `${service}/held`, [`pidfd:${victim}`]),
    attempt('message upgradeRequest', service, {
      upgradeRequest: { service, argv: ['/bin/false'], timeoutMs: 3_000 },
    }),
    ...commands.map(name =>
      attempt('message command', `${service} ${name}`, { command: { service, name, request: 1 } }),
    ),
  ]
}

/** Attempts on another user's objects, in the name of one's own service. */
function withForeignObjects(victim: number): Attempt[] {
  return [`pidfd:${victim}`, 'pidfd:1', 'memory'].flatMap(object => [
    descriptor('CLAIM', 'mine/held', [object]),
    descriptor('RELEASE', 'mine/held', [object]),
  ])
}

function codeOf(heard: Heard | null): string {
  const { descriptorReply, reject, result, commandReply } = heard ?? {}
  for (const reply of [descriptorReply, result, commandReply])
    if (reply) return reply.ok ? 'done' : (reply.code ?? '')
  return heard === null ? 'closed' : (reject?.code ?? 'done')
}

async function put(client: OperatorClient, name: string, fd: OwnedFd): Promise<void> {
  await client.descriptors.put(name, fd)
  fd.close()
}

/** Services "bank" and "mine" of the daemon's user; on "mine" each of some users has one right, and no other anywhere. */
async function world() {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-matrix-'))
  chmodSync(folder, 0o755)
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'c.sock')
  const config = joinPath(folder, 'broker.json')
  const users = RIGHTS.map((right, index) => ({ right, uid: FIRST_UID + index }))
  const mine = Object.fromEntries(users.map(({ right, uid }) => [right, ['owner', { uid }]]))
  writeFileSync(config, JSON.stringify({ services: { mine } }))
  const daemon = await serveDaemon({
    control,
    config,
    upgrade: TIMES,
  })
  onTestFinished(() => daemon.close())
  const client = await OperatorClient.connect(control)
  onTestFinished(() => client.close())
  const child = spawn('sleep', ['600'], { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  const victim = child.pid!
  const root = await SecondUser.start(0)
  const sections: Section<number>[] = []
  for (const service of ['bank', 'mine']) {
    const member = await join({ service, control, hosting: 'daemon', upgrade: TIMES, drain: { timeout: 0 } })
    onTestFinished(() => member.close({ timeout: 0 }))
    const section = member.section('accounts', defineSection({ version: 1, codec: json<number>() }))
    await member.ready()
    await section.put('alice', 100)
    sections.push(section)
    const held = memoryFile('secret', 'a memory file')
    writeAllAt(held, Buffer.from('secret'), 0)
    await put(client, `${service}/held`, held)
    await put(client, `${service}/free`, memoryFile('free', 'a memory file'))
    await put(
      client,
      `${service}/web`,
      bindSocket({ kind: 'unix', host: joinPath(folder, service) }, 'a listener'),
    )
    ;(await client.descriptors.claim(`${service}/held`, { while: { pid: victim } })).close()
  }
  /** All that another user must not have changed. */
  const bank = async () => {
    const { services } = (await daemon.status()) as { services: Record<string, unknown>[] }
    const { generation, pid, phase, role } = services.find(({ service }) => service === 'bank')!
    const held = (await client.descriptors.list()).filter(({ name }) => name.startsWith('bank/'))
    return { generation, pid, phase, role, held, entries: [...sections[0]!.entries()] }
  }
  let count = 0
  const tries = async (uid: number, { bodies, fds = [], answers }: Attempt) => {
    const as = `c${++count}`
    const named = fds.map(fd => (fd === 'pidfd:own' ? `pidfd:${root.pid}` : fd))
    const heard = await root.say({ as, uid, control, bodies, fds: named, answers })
    const { links = [] } = heard ?? {}
    await root.leave(as)
    return { code: codeOf(heard), links, text: JSON.stringify(heard) }
  }
  return { control, users, victim, root, bank, tries, accounts: sections[0]! }
}

describe('the matrix of rights', () => {
  it('has a verdict for each operation, in the tests and in SECURITY.md', () => {
    expect(Object.keys(VERDICTS).sort()).toEqual(operations().sort())
    expect(messages()).toEqual(expect.arrayContaining([...OPERATORS, ...ELSEWHERE]))
    const rows = Object.entries(VERDICTS).map(
      ([operation, { needs, foreign }]) =>
        `| ${operation} | ${needs.map(right => `\`${right}\``).join(' or ') || 'none'} | ${foreign} |`,
    )
    expect(readFileSync(SECURITY, 'utf8').split('\n')).toEqual(expect.arrayContaining(rows))
  })

  it.runIf(NIGHTLY)(
    'lets a second user with any single right on one service do nothing with the objects of another one',
    async context => {
      needsRoot(context)
      const { bank, tries, users, victim, accounts } = await world()
      const before = await bank()
      const wrong: string[] = []
      for (const { right, uid } of users) {
        const commands = perLane(right === 'operate' ? COMMANDS : COMMANDS.slice(0, 1), COMMANDS)
        for (const foreign of [
          ...attemptsOn('bank', victim, commands),
          ...attemptsOn(DAEMON, victim, commands),
        ]) {
          const { code, links } = await tries(uid, foreign)
          if (code !== DENIED || links.length > 0)
            wrong.push(`${right}: ${foreign.operation} of ${foreign.object}: ${code} ${links}`)
        }
        for (const foreign of withForeignObjects(victim)) {
          const { code, links } = await tries(uid, foreign)
          if (![DENIED, 'ERR_FDB_NO_PIDFD'].includes(code) || links.length > 0)
            wrong.push(`${right}: ${foreign.operation} of ${foreign.object}: ${code} ${links}`)
        }
        for (const foreign of [
          descriptor('LIST', ''),
          descriptor('WATCH', ''),
          attempt('message statusRequest', '', { statusRequest: {} }),
          attempt('message command', '', { command: { service: '', name: 'hello', request: 1 } }),
          attempt('message upgradeRequest', '', { upgradeRequest: { service: '', argv: [], timeoutMs: 1 } }),
          attempt('message command', 'nothing', {
            command: { service: 'nothing', name: 'hello', request: 1 },
          }),
        ]) {
          const { text } = await tries(uid, foreign)
          if (/bank|secret/.test(text))
            wrong.push(`${right}: ${foreign.operation} names another service: ${text}`)
        }
      }
      expect(wrong).toEqual([])
      expect(await bank()).toEqual(before)
      await accounts.put('bob', 1)
    },
  )

  it('asks a second user for the right that each operation needs on its own service', async context => {
    needsRoot(context)
    const { tries, users, victim } = await world()
    const answers: Record<string, string> = {}
    const expected: Record<string, string> = {}
    for (const { right, uid } of users) {
      const named = attemptsOn('mine', victim, ['hello'])
      // Attempts that end or change objects of later ones come last.
      const last = (one: Attempt) => (/REMOVE|upgrade|JOIN|BACK/.test(one.operation) ? 1 : 0)
      const unnamed = [
        descriptor('LIST', ''),
        descriptor('WATCH', ''),
        descriptor('UNWATCH', ''),
        attempt('message statusRequest', '', { statusRequest: {} }),
        attempt('intent OPERATE', '', hello('OPERATE', '')),
      ]
      for (const own of [...named.sort((a, b) => last(a) - last(b)), ...unnamed]) {
        const { needs } = VERDICTS[own.operation]!
        // A member that may join has the state; it follows as long as no rule says which users may, and one does here.
        const may = needs.length === 0 || needs.includes(right)
        const foreignPidfd = own.fds?.includes(`pidfd:${victim}`) ?? false
        const key = `${right}: ${own.operation} of ${own.object}`
        expected[key] = may && !foreignPidfd ? 'allowed' : DENIED
        const { code } = await tries(uid, own)
        answers[key] = code === DENIED ? DENIED : 'allowed'
      }
    }
    expect(answers).toEqual(expected)
  })

  it('has no line for what members say to each other: said by an operator it is ignored', async context => {
    needsRoot(context)
    const { bank, control, root, users } = await world()
    const before = await bank()
    const others = messages().filter(name => ![...OPERATORS, ...ELSEWHERE].includes(name))
    expect(others.length).toBeGreaterThan(30)
    const { uid } = users.find(({ right }) => right === 'list')!
    for (const name of others) {
      const body = Envelope.create({ [name]: {} }) as WireBody
      const bodies = [hello('OPERATE', ''), body, { statusRequest: {} }]
      const heard = await root.say({ as: name, uid, control, bodies, answers: ['status'] })
      expect([name, heard?.status?.json?.includes('mine')]).toEqual([name, true])
      await root.leave(name)
    }
    expect(await bank()).toEqual(before)
  })
})
