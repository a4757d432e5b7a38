import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it, onTestFinished } from 'vitest'
import { pageText } from '../pages/blocks.js'
import { type Machine, Machines } from '../processes/machines.js'
import { present } from '../processes/release.js'
import { Scene } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

const CLIENTS = fileURLToPath(new URL('../fixtures/fleet-clients.mjs', import.meta.url))
const PLAYBOOK = fileURLToPath(new URL('../../docs/examples/ansible/rollout.yaml', import.meta.url))
const NAMES = ['edge-1', 'edge-2', 'edge-3', 'edge-4', 'edge-5']
const CLI = present.cli.at(-1)!
const WELL = { respond: { body: 'well' } }

interface Fleet {
  readonly scene: Scene
  readonly machines: readonly Machine[]
  /** Installs what the next version is on each machine. */
  install(version: { route?: object; code?: string }): void
  /** The process that serves on each machine. */
  pids(): Promise<number[]>
  /** Ends the clients. Returns how many requests were answered and which have failed, by machine. */
  ended(): Promise<{ answers: number; failures: string[] }[]>
}

/** Five machines with a proxy each, and clients of all of them. */
async function fleet(probation = '3s'): Promise<Fleet> {
  const scene = Scene.open()
  const { all: machines, clients } = await Machines.start(NAMES)
  for (const folder of ['bin', 'home']) mkdirSync(scene.file(folder))
  writeFileSync(scene.file('bin/fd-broker'), `#!/bin/sh\nexec "${process.execPath}" "${CLI}" "$@"\n`)
  chmodSync(scene.file('bin/fd-broker'), 0o755)
  const config = {
    service: 'edge',
    listeners: [{ name: 'http', address: 'tcp://0.0.0.0:80' }],
    metrics: 'tcp://127.0.0.1:9100',
    upstreams: { nothing: { servers: ['http://127.0.0.1:9'] } },
  }
  const install: Fleet['install'] = ({ route = WELL, code = '' }) => {
    const routes = [{ host: '*', ...route }]
    const upgrade = { probation, heartbeat: '100ms', silence: '1s' }
    writeFileSync(scene.file('edge.json'), JSON.stringify({ ...config, upgrade, routes }))
    writeFileSync(scene.file('release.cjs'), `require(${JSON.stringify(CLI)})\n${code}`)
  }
  install({})
  const { RUNTIME_DIRECTORY: _, XDG_RUNTIME_DIR: __, ...rest } = process.env
  const env = { ...rest, ...scene.marked, NODE_OPTIONS: '' }
  for (const { name, inside } of machines) {
    const log = scene.file(`${name}.log`)
    const words = [process.execPath, scene.file('release.cjs'), 'proxy', '--config', scene.file('edge.json')]
    const command = `setsid "$@" </dev/null >>${log} 2>&1 &`
    await promisify(execFile)('sh', ['-c', command, 'sh', ...inside, ...words], { env })
  }
  const status = async (machine: Machine) =>
    JSON.parse(await machine.run(process.execPath, CLI, 'status', '--service', 'edge', '--json')) as {
      pid: number
      role: string
    }
  for (const machine of machines)
    await until(
      `${machine.name} serves`,
      () =>
        status(machine).then(
          ({ role }) => role === 'serving',
          () => false,
        ),
      60_000,
    )
  const [file = '', ...args] = [
    ...clients.inside,
    ...[process.execPath, CLIENTS],
    ...machines.map(({ address }) => `http://${address}/`),
  ]
  const load = spawn(file, args, { env, stdio: ['ignore', 'pipe', 'inherit'] })
  onTestFinished(() => void load.kill('SIGKILL'))
  let said = ''
  load.stdout.on('data', text => (said += text))
  await until('the clients ask', () => said.includes('begun'))
  return {
    scene,
    machines,
    install,
    pids: () => Promise.all(machines.map(async machine => (await status(machine)).pid)),
    async ended() {
      load.kill('SIGTERM')
      await once(load, 'close')
      return JSON.parse(said.slice(said.indexOf('[')))
    },
  }
}

interface Ended {
  readonly code: number
  readonly output: string
}

type RollOut = (fleet: Fleet) => Promise<Ended>

/** The loop of the page; `ssh` and the probation are those of the test. */
const byLoop: RollOut = async ({ scene, machines }) => {
  const [loop = ''] = /^for machine in .*?^done$/ms.exec(pageText('docs/fleet.md')) ?? []
  const inside = machines.map(({ name, inside }) => `[${name}]="${inside.join(' ')}"`)
  const script = `declare -A inside=(${inside.join(' ')})
ssh() { local name=$1; shift; \${inside[$name]} "$@"; }
sleep() { command sleep 4; }
${loop}`
  return await ran(['bash', '-c', script], scene, {})
}

const byAnsible: RollOut = async ({ scene, machines }) => {
  const hosts = machines.map(({ name, inside }) => {
    const python = scene.file(`bin/python-${name}`)
    writeFileSync(python, `#!/bin/sh\nexec ${inside.join(' ')} /usr/bin/python3 "$@"\n`)
    chmodSync(python, 0o755)
    return `${name} ansible_connection=local ansible_python_interpreter=${python}`
  })
  writeFileSync(scene.file('hosts'), `[edge]\n${hosts.join('\n')}\n`)
  const variables = JSON.stringify({ fd_broker_watch: 2 })
  const command = ['ansible-playbook', '-i', scene.file('hosts'), '-e', variables, PLAYBOOK]
  return await ran(command, scene, {
    HOME: scene.file('home'),
    ANSIBLE_LOCAL_TEMP: scene.file('ansible'),
    ANSIBLE_REMOTE_TEMP: scene.file('ansible'),
    LC_ALL: 'C.UTF-8',
  })
}

async function ran([file = '', ...args]: string[], scene: Scene, env: NodeJS.ProcessEnv): Promise<Ended> {
  const { RUNTIME_DIRECTORY: _, XDG_RUNTIME_DIR: __, ...rest } = process.env
  const PATH = `${scene.file('bin')}:${process.env.PATH}`
  const child = spawn(file, args, {
    env: { ...rest, ...scene.marked, NODE_OPTIONS: '', PATH, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', text => (output += text))
  const [code] = (await once(child, 'close')) as [number]
  return { code, output }
}

interface Bad {
  readonly by: 'loop' | 'ansible'
  readonly kind: string
  readonly version: Parameters<Fleet['install']>[0]
  readonly probation?: string
  readonly says: RegExp
}

const UNREADABLE = { version: { route: { upstream: 'nowhere' } }, says: /ERR_FDB_CONFIG: .*nowhere/ }
const MORTAL = {
  version: { code: 'setTimeout(() => process.exit(9), 2_500)' },
  says: /edge-1/,
}
const BAD: readonly Bad[] = [
  { by: 'loop', kind: 'cannot read its configuration', ...UNREADABLE },
  { by: 'ansible', kind: 'cannot read its configuration', ...UNREADABLE },
  { by: 'loop', kind: 'dies in its probation', ...MORTAL },
  { by: 'ansible', kind: 'dies in its probation', ...MORTAL },
  {
    by: 'ansible',
    kind: 'answers 502',
    version: { route: { upstream: 'nothing' } },
    probation: '60s',
    says: /\d\d\d of \d+ requests failed; the previous version serves/,
  },
]

const WAYS = { loop: byLoop, ansible: byAnsible } as const
const mayRun = process.geteuid?.() === 0 && has('ip') && has('ansible-playbook')

describe.skipIf(!mayRun)('a roll-out over five machines', () => {
  it.each(BAD)(
    'stops at the first machine if the version $kind ($by)',
    async ({ by, version, probation, says }) => {
      const scene = await fleet(probation)
      const before = await scene.pids()
      scene.install(version)
      const { code, output } = await WAYS[by](scene)
      if (by === 'ansible') expect({ code, output }).toMatchObject({ code: 2 })
      expect(output).toMatch(says)
      expect(output).not.toContain('edge-2')
      expect(await scene.pids(), output).toEqual(before)
      const [, ...others] = await scene.ended()
      expect(others.map(({ failures }) => failures)).toEqual([[], [], [], []])
      expect(Math.min(...others.map(({ answers }) => answers))).toBeGreaterThan(100)
    },
  )

  it.each(['loop', 'ansible'] as const)(
    'brings a good version to all without a failed request (%s)',
    async by => {
      const scene = await fleet()
      const before = await scene.pids()
      scene.install({ route: { respond: { body: 'better' } } })
      const { code, output } = await WAYS[by](scene)
      expect({ code, output }).toMatchObject({ code: 0 })
      const after = await scene.pids()
      expect(after.filter(pid => before.includes(pid))).toEqual([])
      const found = await scene.ended()
      console.log(JSON.stringify({ by, answers: found.map(({ answers }) => answers) }))
      expect(found.map(({ failures }) => failures)).toEqual([[], [], [], [], []])
    },
  )
})
