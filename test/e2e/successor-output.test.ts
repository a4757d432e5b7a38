import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const SHOP = fileURLToPath(new URL('../fixtures/talking-shop.mjs', import.meta.url))
const TIMES = { probation: 0, heartbeat: 50, ready: 10_000 }

/** A program that is no member, as its source. */
function program(source: string): readonly string[] {
  return [process.execPath, '-e', source]
}

async function failed(app: App, facts: object): Promise<string> {
  return await app.order('upgrade', facts).then(
    () => 'it serves',
    error => (error as Error).message,
  )
}

/** Beside the control socket. */
function leftIn({ control }: Scene): string[] {
  return readdirSync(dirname(control)).filter(name => /\.[0-9a-f]{16}/.test(name))
}

describe('the failure of a version that does not come to serve', () => {
  it('has its exit code and its last lines on stderr, also in the status, and leaves no file', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const app = await scene.serve()
    const source = "console.error('cannot connect to the database\\nat 10.0.0.7'); process.exit(7)"
    const said = `ended with code 7 before it served: its last lines on stderr are below; process ${app.pid} serves on\n`
    const message = await failed(app, { argv: program(source) })
    expect(message).toContain(`${said}  cannot connect to the database\n  at 10.0.0.7`)
    expect((await scene.status()).lastFailure).toMatchObject({ code: 'ERR_FDB_SUCCESSOR_EXITED', message })
    const thrown = await failed(app, { argv: program("throw new Error('there is no table of users')") })
    expect(thrown).toMatch(
      /ended with code 1 before it served.*\n(.*\n)*? {2}Error: there is no table of users/,
    )
    const long =
      "throw Object.assign(new Error('no table'), Object.fromEntries([...'abcdefghijklmnopqrst'].entries()))"
    expect(await failed(app, { argv: program(long) })).toContain('\n  Error: no table\n')
    expect(leftIn(scene)).toEqual([])
  })

  it('has file and line of a syntax error in an ES module', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const app = await scene.serve()
    const file = (name: string, text: string) => {
      const path = join(scene.folder, name)
      writeFileSync(path, text)
      return {
        argv: [process.execPath, path],
        place: (line: number) => `\n  ${pathToFileURL(path)}:${line}\n`,
      }
    }
    const wrong = file('wrong.mjs', "import 'node:http'\nconst a = ;\n")
    const first = `${wrong.place(2)}  const a = ;\n`
    expect(await failed(app, wrong)).toContain(first)
    if (!NIGHTLY) return
    expect(await failed(app, file('main.mjs', "import './wrong.mjs'\n"))).toContain(first)
    const missing = file('missing.mjs', "import { nosuch } from 'node:http'\n")
    expect(await failed(app, missing)).toContain(`${missing.place(1)}  import { nosuch }`)
    const json = await failed(app, file('json.mjs', "JSON.parse('{')"))
    expect(json).toContain('\n  SyntaxError: ')
    expect(json).not.toContain('fd-broker:')
  })

  it('has them where it ends between join() and ready()', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const app = await scene.serve()
    const FDB_APP = JSON.stringify({ ...app.config, exitBeforeReady: true })
    const message = await failed(app, { env: { FDB_APP } })
    expect(message).toContain(`it ended with code 3 (phase offering; process ${app.pid} serves on)`)
    expect((await scene.status()).lastFailure?.message).toBe(message)
    expect(leftIn(scene)).toEqual([])
  })

  it.runIf(NIGHTLY)('stands in the status of its daemon', async () => {
    const scene = Scene.open({ upgrade: TIMES, hosting: 'daemon' })
    await startDaemon(scene, { upgrade: TIMES })
    const app = await scene.serve()
    await failed(app, { argv: program("console.error('no licence'); process.exit(4)") })
    const { services } = (await scene.status()) as never as {
      services: readonly { lastFailure: { message: string } }[]
    }
    expect(services[0]?.lastFailure.message).toMatch(/with code 4 before.*\n {2}no licence$/)
  })

  it('appears in the output of fd-broker upgrade', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    await scene.serve()
    const command = [
      'upgrade',
      '--control',
      scene.control,
      '--',
      ...program("console.error('no port'); process.exit(5)"),
    ]
    const { stderr } = await promisify(execFile)(process.execPath, [CLI, ...command]).then(
      () => ({ stderr: '' }),
      error => error as { stderr: string },
    )
    expect(stderr).toMatch(/^ERR_FDB_SUCCESSOR_EXITED: .*with code 5.*\n {2}no port\n$/)
  })
})

describe('a version that an upgrade has started', () => {
  it('has the environment that it would have without being watched', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const app = await scene.serve()
    // Variables that this test has itself, such as the lane, are not of the watch.
    const own = [...Object.keys(process.env), 'FD_BROKER_LAST_WORDS']
    const source = `console.error(JSON.stringify([process.env.NODE_OPTIONS, process.execArgv.slice(0, 1), Object.keys(process.env).filter(name => name.startsWith('FD_BROKER_') && !${JSON.stringify(own)}.includes(name))])); process.exit(1)`
    expect(await failed(app, { argv: program(source) })).toContain('["",["-e"],[]]')
    const env = { NODE_OPTIONS: '--no-deprecation' }
    expect(await failed(app, { argv: program(source), env })).toContain('["--no-deprecation",["-e"],[]]')
  })

  it('outlives the pipe that its output goes to: writes are dropped and counted', async () => {
    const shop = await talking([])
    const { first } = shop
    expect(await shop.upgraded()).toMatch(
      /serves, after \d+ ms\nits output goes to a (pipe|socket) \(output after its end is lost\)/,
    )
    await shop.outlives(async () => {
      first.stdout.destroy()
      first.stderr.destroy()
      await Promise.all([once(first.stdout, 'close'), once(first.stderr, 'close')])
    })
  })

  it.skipIf(!has('python3'))('outlives the terminal that it writes to', async () => {
    const shop = await talking(['python3', '-c', 'import pty, sys; pty.spawn(sys.argv[1:])'])
    expect(await shop.upgraded()).toMatch(
      /its output goes to the terminal \S+ \(output after its end is lost\)/,
    )
    await shop.outlives(async () => {
      // The window is closed.
      shop.first.kill('SIGKILL')
      await once(shop.first, 'exit')
    })
  })
})

/** A shop that writes in every way, started by `command`. */
async function talking(command: readonly string[]) {
  const scene = Scene.open()
  const port = await freePort()
  const [file, ...args] = [...command, process.execPath, SHOP, scene.control, `${port}`]
  const first = spawn(file!, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    env: { ...process.env, ...scene.marked, NODE_OPTIONS: '' },
  })
  for (const stream of [first.stdout, first.stderr]) stream.resume()
  onTestFinished(() => void first.kill('SIGKILL'))
  const ask = (path = '') =>
    fetch(`http://127.0.0.1:${port}/${path}`, { headers: { connection: 'close' } }).then(
      response => response.text(),
      error => String(error),
    )
  await until('the first version serves', async () => (await ask()) === '1')
  const upgraded = async () => {
    const { stdout } = await promisify(execFile)(process.execPath, [
      CLI,
      'upgrade',
      '--control',
      scene.control,
    ])
    return stdout
  }
  /** The second version serves on after `end`, which takes its reader away. */
  const outlives = async (end: () => Promise<void>) => {
    const before = await ask('written')
    expect(JSON.parse(before)).toEqual([3, 2, 4, 2, 3, 5, 10, 4, 10])
    await end()
    expect(await ask('written')).toBe(before)
    for (let request = 0; request < 10; request++) expect(await ask()).toBe('2')
    // Lines of two streams and a logger, and reports of how much was written; the other loggers may write several lines at once.
    await until('all are counted', async () => (await scene.status()).droppedOutput! >= 11 * 3 + 9)
    expect((await scene.status()).generation).toBe(2)
  }
  return { first, upgraded, outlives }
}
