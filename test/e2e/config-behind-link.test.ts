import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

const EDGE = (control: string) =>
  `service: edge\ncontrol: ${control}\nlisteners: [{ name: http, address: "tcp://127.0.0.1:0" }]\nroutes: []\n`

it.each([
  ['proxy', 'edge', EDGE],
  ['serve', 'fd-broker.daemon', () => 'services: {}\n'],
] as const)(
  'a reload of %s reads the file of the release to which the link leads',
  async (command, service, textFor) => {
    const sandbox = Sandbox.open()
    const { control } = sandbox
    const release = (name: string, text: string) => {
      mkdirSync(sandbox.file(name))
      writeFileSync(sandbox.file(`${name}/own.yaml`), text)
      rmSync(sandbox.file('current'), { force: true })
      symlinkSync(name, sandbox.file('current'))
    }
    release('1', textFor(control))
    const words = command === 'serve' ? ['--control', control] : []
    const script = 'cd "$0" && exec "$@"'
    const start = [process.execPath, CLI, command, '--config', 'own.yaml', ...words]
    await sandbox.launch(['sh', '-c', script, sandbox.file('current'), ...start])
    await until('it serves', () => sandbox.output.includes('serves') || sandbox.output.includes('listens'))

    release('2', `${textFor(control)}wrong: 1\n`)
    const reload = () => sandbox.run('reload', '--control', control, '--service', service)
    expect(await reload()).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/current\/own\.yaml.*wrong/s),
    })
    release('3', textFor(control))
    rmSync(sandbox.file('1'), { recursive: true })
    expect(await reload()).toMatchObject({ code: 0, stderr: '' })
  },
)

it.runIf(NIGHTLY)(
  'run is found in the release to which the link leads, also when its first one is removed',
  async () => {
    const sandbox = Sandbox.open()
    const lead = (name: string) => {
      mkdirSync(sandbox.file(name))
      rmSync(sandbox.file('current'), { force: true })
      symlinkSync(name, sandbox.file('current'))
    }
    lead('1')
    const files = ['--control', 'run.sock', '--pid-file', 'run.pid']
    const start = [process.execPath, CLI, 'run', ...files, '--', 'sleep', '60']
    await sandbox.launch(['sh', '-c', 'cd "$0" && exec "$@"', sandbox.file('current'), ...start])
    const answers = async () =>
      (await sandbox.run('status', '--control', sandbox.file('current/run.sock'))).code === 0
    await until('it answers', answers)
    lead('2')
    rmSync(sandbox.file('1'), { recursive: true })
    await until('it answers again', answers)
    await until('it has written its pid', () => existsSync(sandbox.file('current/run.pid')))
  },
)
