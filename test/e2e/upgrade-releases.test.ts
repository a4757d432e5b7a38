import { appendFileSync, mkdirSync, readFileSync, readlinkSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { Edge } from '../processes/edge.js'
import { install } from '../processes/installed.js'
import { signalPid } from '../processes/launch.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'
import { Sandbox, SHOP, urlOf } from './cli-processes.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const FAILS = 'process.exit(3)\n'

/** An operator's changes of the link from which the server is started. */
function releases(sandbox: Sandbox) {
  const link = join(sandbox.folder, 'current')
  symlinkSync(join(sandbox.folder, '1'), link)
  const at = ['--control', sandbox.control, '--at', link]
  return {
    link,
    led: () => readlinkSync(link).slice(sandbox.folder.length + 1),
    upgrade: (to: string) => sandbox.run('upgrade', ...at, '--binary', join(sandbox.folder, to)),
    rollback: () => sandbox.run('rollback', ...at),
  }
}

describe('a release by its link: the new code runs, a failed one leaves it, a rollback runs the old', () => {
  it.runIf(NIGHTLY)('of the shop example, whose folder it is', async () => {
    const sandbox = Sandbox.open()
    const release = (name: string, before = '') => {
      mkdirSync(join(sandbox.folder, name))
      const [first, rest] = readFileSync(SHOP, 'utf8').split(/\n(.*)/s)
      const text = `${first}\n${before}${rest?.replace('no such page', `release ${name}`)}`
      writeFileSync(join(sandbox.folder, name, 'server.mjs'), text)
    }
    release('1')
    release('2')
    release('broken', FAILS)
    mkdirSync(join(sandbox.folder, 'node_modules'))
    symlinkSync(ROOT, join(sandbox.folder, 'node_modules/fd-broker'))
    const { led, link, rollback, upgrade } = releases(sandbox)
    const args = ['--control', sandbox.control, '--listen', 'tcp://127.0.0.1:0', '--routes', '10']
    // As a shell, or systemd, starts it: by the name of the folder.
    const inFolder = ['sh', '-c', 'cd "$0" && exec "$@"', link]
    await sandbox.launch([...inFolder, process.execPath, 'server.mjs', ...args])
    const status = await sandbox.statusWhere('it serves', ({ role }) => role === 'serving')
    // For a moment after the Commit the old version may accept, too.
    const answers = (release: string) =>
      until(`${release} answers`, async () => {
        const answer = await fetch(`${urlOf(status)}/nothing`, { headers: { connection: 'close' } })
        return (await answer.text()).trim() === release
      })
    await answers('release 1')
    expect(await upgrade('2')).toMatchObject({ code: 0, stderr: '' })
    await answers('release 2')
    expect(led()).toBe('2')
    expect(await upgrade('broken')).toMatchObject({ code: 1 })
    await answers('release 2')
    expect(led()).toBe('2')
    expect(await rollback()).toMatchObject({ code: 0, stderr: '' })
    await answers('release 1')
    expect(led()).toBe('1')
  })

  it.runIf(NIGHTLY)('of the proxy, whose program it is', async () => {
    const edge = await Edge.prepare({
      routes: [{ host: '*', respond: { body: 'fine' } }],
      upgrade: { probation: '0s' },
    })
    const { sandbox } = edge
    const release = (name: string, code: string) => {
      install(join(sandbox.folder, name))
      appendFileSync(join(sandbox.folder, name, 'dist/program.cjs'), `\n${code}`)
    }
    release('1', "process.stderr.write('code 1\\n')\n")
    release('2', "process.stderr.write('code 2\\n')\n")
    release('broken', FAILS)
    const { led, link, rollback, upgrade } = releases(sandbox)
    const cli = join(link, 'dist/cli.cjs')
    const first = await sandbox.launch([process.execPath, cli, 'proxy', '--config', edge.file])
    await edge.serving(first)
    const started = () => sandbox.output.match(/^code \d$/gm)?.join(', ')
    expect(started()).toBe('code 1')
    expect(await upgrade('2')).toMatchObject({ code: 0, stderr: '' })
    expect([started(), led()]).toEqual(['code 1, code 2', '2'])
    expect(await upgrade('broken')).toMatchObject({ code: 1 })
    expect([started(), led()]).toEqual(['code 1, code 2', '2'])
    // No process stands by any more: it is an upgrade to the kept release.
    await edge.ended(first)
    expect(await rollback()).toMatchObject({ code: 0, stderr: '' })
    expect([started(), led()]).toEqual(['code 1, code 2, code 1', '1'])
    expect((await edge.status()).generation).toBe(3)
  })
})

describe('an upgrade that is requested in the probation of the serving version', () => {
  it.runIf(NIGHTLY)(
    'fails, and restores the link, when that version loses the right to serve to the previous one',
    async () => {
      const upgrade = { probation: 50_000, heartbeat: 50, silence: 1_000 }
      const scene = Scene.open({ upgrade, timeout: 60_000 })
      const first = await scene.serve()
      const sickFile = scene.file('sick')
      const second = await scene.serve({ sickFile })
      await first.says('retiring')
      mkdirSync(scene.file('2'))
      symlinkSync('1', scene.file('current'))
      const sandbox = Sandbox.open()
      const at = ['--at', scene.file('current'), '--binary', scene.file('2')]
      const running = sandbox.run('upgrade', '--control', scene.control, '--json', ...at)
      await scene.statusWhere('the upgrade has begun', ({ upgrade: started }) => started !== null)
      scene.write('sick', '')
      await first.says('reinstated')
      const { code, stdout } = await running
      expect({ code, outcome: JSON.parse(stdout) }).toMatchObject({
        code: 1,
        outcome: {
          ok: false,
          code: 'ERR_FDB_LOST',
          message: expect.stringContaining(`process ${second.pid} has lost the right to serve`),
          phases: [{ phase: 'started' }],
        },
      })
      expect(readlinkSync(scene.file('current'))).toBe('1')
      expect(await scene.status()).toMatchObject({ pid: first.pid, generation: 1 })
    },
  )
})

const SERVER = `import http from 'node:http'
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
`

describe('a release whose version serves, and fails at once', () => {
  it.runIf(NIGHTLY)('has the link no longer when the command reports its failure', async () => {
    const program = await AutoProgram.of('')
    program.write('1.mjs', SERVER)
    const [link, kept] = [program.path('server.mjs'), program.path('1.mjs')]
    symlinkSync(kept, link)
    // The failing version stops the command until it has failed.
    program.write(
      '2.mjs',
      `import { readFileSync } from 'node:fs'
process.kill(Number(readFileSync('command', 'utf8')), 'SIGSTOP')
${SERVER}setTimeout(() => { throw new Error('a late mistake') }, 500)
`,
    )
    const first = await program.serve()
    const at = ['--at', link, '--binary', program.path('2.mjs')]
    const pidFile = program.path('command')
    const shell = ['sh', '-c', `echo $$ > '${pidFile}' && exec "$@"`, 'sh', process.execPath, CLI]
    const running = program.sandbox.runCommand([...shell, 'upgrade', '--control', program.control, ...at])
    await program.statusWhere(
      'the first version serves again',
      ({ lastFailure, pid, role }) => lastFailure !== null && pid === first && role === 'serving',
    )
    signalPid(Number(program.read('command')), 'SIGCONT')
    const { code, stderr } = await running
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining('has served and failed') })
    expect(readlinkSync(link)).toBe(kept)
    await program.command('stop')
  })
})
