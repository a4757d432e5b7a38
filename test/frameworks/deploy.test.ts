import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { parseDockerfile } from '../package/dockerfile.js'
import { signalPid } from '../processes/launch.js'
import { PidNamespace } from '../processes/namespace.js'
import * as operator from '../processes/operator.js'
import { until } from '../processes/until.js'
import { wholeLines } from '../processes/whole-lines.js'
import { Application, IN_FOLDER } from './application.js'
import { installed } from './installed.js'
import { blockOf, blocksOf, commandOf, commandsOf } from './page.js'

const PAGE = 'deploy.md'
/** Stands in for the reader's own: it says when it was closed, and fails who asks it then. */
const DATABASE = `import { appendFileSync } from 'node:fs'
export async function openDatabase() {
  let open = true
  const answer = async value => {
    if (open) return value
    throw new Error('the database is closed')
  }
  return {
    ping: () => answer(true),
    rows: () => answer(42),
    async close() {
      open = false
      appendFileSync('database.log', process.pid + '\\n')
    },
  }
}
`
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('pm2', import.meta.url)))
}, 300_000)

const PROGRAMS = ['server.mjs', 'Dockerfile', 'ecosystem.config.cjs']
const UNITS = ['shop.service', 'shop-sockets.service', 'shop-held.service']
const COMMANDS = [
  'docker run',
  'docker exec',
  'docker stop',
  'pm2 start',
  'npx fd-broker upgrade --control',
  'pm2 sendSignal',
  'pm2 stop',
]

/** Files and commands that `guides.test.ts` tries. */
const IN_GUIDES = ['deploy.sh', 'deploy.yaml', 'release.sh', 'compose.yaml']

describe('docs/deploy.md', () => {
  it('has nothing that is not tried', () => {
    const files = blocksOf(PAGE).flatMap(({ file, language }) =>
      language === 'sh' && file === '' ? [] : [file],
    )
    expect(files.sort()).toEqual([...PROGRAMS, ...UNITS, ...IN_GUIDES].sort())
    const scripts = IN_GUIDES.flatMap(file => blockOf(PAGE, file).trim().split('\n'))
    const commands = commandsOf(PAGE).filter(
      line => !scripts.includes(line) && !line.startsWith('docker compose '),
    )
    expect(commands).toEqual(COMMANDS.map(begin => commandOf(PAGE, begin)))
  })
})

async function shop(...files: string[]): Promise<Application> {
  const shown = Object.fromEntries(['server.mjs', ...files].map(file => [file, blockOf(PAGE, file)]))
  return await Application.with({ ...shown, 'database.mjs': DATABASE }, modules)
}

/** Processes that have closed their database. */
function closed({ folder }: Application): number {
  return wholeLines(join(folder, 'database.log')).length
}

/** The settings of a unit, by name: `ExecStart`. */
function settingsOf(application: Application, unit: string): Map<string, string> {
  const lines = application.here(blockOf(PAGE, unit)).split('\n')
  return new Map(
    lines.flatMap(line => [/^(\w+)=(.*)$/.exec(line)?.slice(1) as [string, string]]).filter(Boolean),
  )
}

/** As systemd would start it. */
async function startUnit(application: Application, unit: string): Promise<number> {
  const settings = settingsOf(application, unit)
  const [program, ...args] = settings.get('ExecStart')!.split(' ')
  const command = program!.endsWith('fd-broker')
    ? ['node_modules/.bin/fd-broker', ...args]
    : ['node', 'server.mjs']
  return await application.launch('env', ...(settings.get('Environment')?.split(' ') ?? []), ...command)
}

describe('docs/deploy.md: the program', () => {
  it('upgrades under load, and each version closes its database when its last answer was given', async () => {
    const application = await shop()
    const service = await application.serve('node', 'server.mjs')
    await application.underLoad(() => service.upgrade())
    await application.stop()
    expect(closed(application)).toBe(4)
    expect(application.sandbox.output).toBe('')
  })

  it('runs as PID 1 as the Dockerfile starts it, and stays when it is replaced; TERM ends all', async () => {
    const application = await shop('Dockerfile')
    const { stages } = parseDockerfile(blockOf(PAGE, 'Dockerfile'))
    const said = (name: string) =>
      stages[0]!.steps.find(({ instruction }) => instruction === name)?.args ?? ''
    const { env, log } = application.sandbox
    const command = [...IN_FOLDER, application.folder, ...(JSON.parse(said('CMD')) as string[])]
    const container = await PidNamespace.start(command, { env, log })
    const service = application.service()
    await service.serves(1)
    const upgrade = commandOf(PAGE, 'docker exec shop ').replace('docker exec shop ', '')
    await application.underLoad(async () => {
      expect(await application.run(upgrade)).toMatchObject({ code: 0 })
    })
    container.signal('SIGTERM')
    expect(await container.exit).toBe(0)
    expect(closed(application)).toBe(4)
    expect(application.sandbox.output).toBe('')
  })
})

describe('docs/deploy.md: the units', () => {
  const units = blocksOf(PAGE).filter(({ language }) => language === 'ini')

  it('without a daemon: its ExecReload is an upgrade under load', async () => {
    const application = await shop()
    await startUnit(application, 'shop.service')
    const service = application.service()
    await service.serves(1)
    const reload = settingsOf(application, 'shop.service').get('ExecReload')!.split(' ').slice(1)
    await application.underLoad(async () => {
      expect(await application.sandbox.run(...reload)).toMatchObject({ code: 0, stderr: '' })
    })
    await application.stop()
  })

  it('with the daemon: nothing is lost when the shop is restarted, and its ExecReload is an upgrade', async () => {
    const application = await shop()
    const daemon = await startUnit(application, 'shop-sockets.service')
    const held = application.service('run/daemon.sock')
    await until('the daemon answers', () => operator.status(held.control).catch(() => null))
    let pid = await startUnit(application, 'shop-held.service')
    await application.answers()
    const reload = settingsOf(application, 'shop-held.service').get('ExecReload')!.split(' ').slice(1)
    await application.underLoad(
      async generation => {
        if (generation === 4) {
          expect(await application.sandbox.run(...reload)).toMatchObject({ code: 0, stderr: '' })
          return
        }
        signalPid(pid, 'SIGTERM')
        await application.endedBy(pid)
        pid = await startUnit(application, 'shop-held.service')
      },
      { fresh: true },
    )
    signalPid(daemon, 'SIGKILL')
  })

  it.skipIf(spawnSync('systemd-analyze', ['--version']).status !== 0)(
    'pass systemd-analyze verify',
    async () => {
      const application = await shop()
      for (const { file, text } of units)
        application.write(file, text.replace(/(?<==)\/usr\/bin\/(?:fd-broker|node)\b/g, process.execPath))
      const { status, stderr } = spawnSync(
        'systemd-analyze',
        ['verify', '--man=no', ...units.map(({ file }) => join(application.folder, file))],
        { encoding: 'utf8', env: { ...process.env, SYSTEMD_UNIT_PATH: `${application.folder}:` } },
      )
      const unexpectedLines = stderr.split('\n').filter(line => units.some(({ file }) => line.includes(file)))
      expect({ status, unexpectedLines }).toEqual({ status: 0, unexpectedLines: [] })
    },
  )
})

describe('docs/deploy.md: pm2', () => {
  it('keeps fd-broker run in fork mode, which upgrades under load by its command and by its signal', async () => {
    const application = await shop('ecosystem.config.cjs')
    const [start, upgrade, signal, stop] = [
      'start',
      'npx fd-broker upgrade --control',
      'sendSignal',
      'stop',
    ].map(word =>
      commandOf(
        PAGE,
        word === 'npx fd-broker upgrade --control' ? 'npx fd-broker upgrade --control' : `pm2 ${word}`,
      ),
    ) as [string, string, string, string]
    const run = async (line: string) => {
      const { code, stdout, stderr } = await application.run(line)
      expect({ line, code }, `${stdout}\n${stderr}`).toEqual({ line, code: 0 })
    }
    try {
      await run(start)
      const service = application.service()
      await service.serves(1)
      await application.underLoad(async generation => {
        await run(generation === 3 ? signal : upgrade)
        await service.serves(generation)
      })
      await run(stop)
      expect(closed(application)).toBe(4)
    } finally {
      await application.run('pm2 kill')
    }
  })
})
