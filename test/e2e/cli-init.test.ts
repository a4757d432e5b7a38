import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'
import { Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

const SHOP = `{
    "name": "shop", "private": true,
    "scripts": {
        "start": "node server.js --port 8080",
        "test": "vitest"
    },
    "dependencies": { "express": "^5.0.0" }
}
`

const SERVER = `const session = require('express-session')
const cron = require('node-cron')
app.use(session({ secret: 'x', resave: false }))
cron.schedule('* * * * *', report)
app.listen(8080)
`

/** A folder with these files, and init in it. */
function application(files: Record<string, string>) {
  const sandbox = Sandbox.open()
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(sandbox.folder, name)), { recursive: true })
    writeFileSync(join(sandbox.folder, name), text)
  }
  const init = (...args: string[]) => sandbox.run('init', sandbox.folder, ...args)
  return { sandbox, init, read: (name: string) => readFileSync(join(sandbox.folder, name), 'utf8') }
}

describe('fd-broker init', () => {
  it('finds framework and entry, shows the difference, and writes only with --yes', async () => {
    const { init, read, sandbox } = application({ 'package.json': SHOP, 'server.js': SERVER })
    const shown = await init()
    // Sandbox has no terminal.
    expect({ code: shown.code, stderr: shown.stderr }).toEqual({
      code: 2,
      stderr: 'nothing was written, because there is no terminal to ask on: give --yes to write this\n',
    })
    expect(shown.stdout).toMatch(/^framework: express \^5\.0\.0\nentry: server\.js\n/)
    expect(shown.stdout).toMatch(/note {2}server\.js:3: sessions in memory .*sessionStore\(session\)/)
    expect(shown.stdout).toMatch(/note {2}server\.js:4: a cron job .*runOnce\(\)/)
    expect(shown.stdout).toContain(`     "scripts": {
-        "start": "node server.js --port 8080",
+        "start": "node --import fd-broker/auto server.js --port 8080",
+        "upgrade": "fd-broker upgrade --service shop",
         "test": "vitest"
`)
    expect(read('package.json')).toBe(SHOP)
    const written = await init('--yes')
    // The command is that of a clone, which is installed by its path.
    const clone = relative(sandbox.folder, fileURLToPath(new URL('../..', import.meta.url)))
    const next = [`npm install ${clone}`, 'npm start', 'npx fd-broker upgrade --service shop']
    const lines = next.map(command => `  $ ${command}\n`).join('')
    expect(written.stdout.endsWith(`was written. Next:\n${lines}`), written.stdout).toBe(true)
    expect(JSON.parse(read('package.json')).scripts).toEqual({
      start: 'node --import fd-broker/auto server.js --port 8080',
      upgrade: 'fd-broker upgrade --service shop',
      test: 'vitest',
    })
    // Only the lines of the scripts have changed.
    expect(read('package.json')).toContain('"name": "shop", "private": true,')
    expect((await init()).stdout).toContain('fd-broker starts it already: nothing is written')
  })

  it('asks on a terminal, and takes y', async () => {
    const { sandbox, read } = application({ 'package.json': SHOP, 'server.js': SERVER })
    const words = `${process.execPath} ${CLI} init ${sandbox.folder}`
    const answered = (answer: string) =>
      sandbox.runCommand(['sh', '-c', `echo ${answer} | script -qec 'TERM=xterm ${words}' /dev/null`])
    expect((await answered('n')).stdout).toMatch(/Write this\? \[y\/N\][\s\S]*nothing was written/)
    expect(read('package.json')).toBe(SHOP)
    expect((await answered('y')).stdout).toContain('\x1b[32m+        "start"')
    expect(read('package.json')).toContain('fd-broker/auto')
  })

  it('has no note on work inside runOnce() or whileServing()', async () => {
    const once = `import { runOnce } from 'fd-broker'
runOnce(() => {
  const job = cron.schedule('* * ) * *', report) // ) here
  const timer = setInterval(() => poll("it's"), 5_000)
  return () => { job.stop(); clearInterval(timer) }
})
member.whileServing(() => chokidar.watch('.'))
`
    const { init } = application({
      'package.json': SHOP,
      'server.js': once,
      'other.js': `${once}setInterval(clean, 60_000)\ncron.schedule('* * * * *', report)\n`,
      'open.js': `setInterval(clean, 60_000) // runOnce(\n`,
    })
    const notes = (await init()).stdout.split('\n').filter(line => line.startsWith('note'))
    expect(notes.map(line => line.split(': ')[0])).toEqual([
      'note  open.js:1',
      'note  other.js:9',
      'note  other.js:8',
    ])
  })

  it.each([['Ctrl-C', '\x03'], ...perLane([], [['Ctrl-D', '\x04']])])(
    'takes %s for no',
    async (_name, key) => {
      const { sandbox, read } = application({ 'package.json': SHOP, 'server.js': SERVER })
      const words = `TERM=xterm ${process.execPath} ${CLI} init ${sandbox.folder}`
      const script = spawn('script', ['-qefc', words, '/dev/null'], { env: sandbox.env })
      onTestFinished(() => void script.kill('SIGKILL'))
      let shown = ''
      script.stdout.setEncoding('utf8').on('data', text => (shown += text))
      await until('it asks', () => shown.includes('[y/N] ') || null)
      script.stdin.write(key)
      const [code] = await once(script, 'close')
      expect(shown.split('[y/N]')[1]!.replaceAll('\r', '')).toMatch(/\nnothing was written\n$/)
      expect(shown).not.toContain('ERR_FDB')
      expect([code, read('package.json')]).toEqual([0, SHOP])
    },
  )

  it.each([
    ['next', '{"scripts":{"start":"next start"}}', "NODE_OPTIONS='--import fd-broker/auto' next start"],
    [
      'two commands',
      '{"scripts":{"start":"tsc && PORT=80 node dist/a.js"}}',
      'tsc && PORT=80 node --import fd-broker/auto dist/a.js',
    ],
    [
      'a command after the server',
      `{"scripts":{"start":"sh -c 'tsc; true' && node . 2>&1 || (date; false); echo 'it; ended'"}}`,
      "sh -c 'tsc; true' && node --import fd-broker/auto . 2>&1 || (date; false); echo 'it; ended'",
    ],
    ...perLane(
      [],
      [
        [
          'a subshell',
          '{"scripts":{"start":"tsc && (cd a; node .)"}}',
          "tsc && export NODE_OPTIONS='--import fd-broker/auto' && (cd a; node .)",
        ],
        ['no start', '{ "name": "a" }', 'node --import fd-broker/auto index.mjs'],
        ['a variable', '{"scripts":{"start":"PORT=80 node ."}}', 'PORT=80 node --import fd-broker/auto .'],
      ],
    ),
  ])('starts it with auto: %s', async (_what, manifest, start) => {
    const { init, read } = application({ 'package.json': manifest, 'index.mjs': '' })
    expect(await init('--yes')).toMatchObject({ code: 0 })
    expect(JSON.parse(read('package.json')).scripts.start).toBe(start)
  })

  it.each([
    ['{"scripts":{"start":"pm2 start app.js"}}', /pm2 starts it: docs\/deploy\.md/],
    ['{"scripts":{"start":"nodemon app.js"}}', /a watcher starts it/],
    ['{"main":"joined.mjs"}', /joined\.mjs calls join\(\) already: nothing is needed/],
  ])('writes nothing where nothing is needed: %s', async (manifest, why) => {
    const joined = "import { join } from 'fd-broker'\nawait join({ service: 'a' })\n"
    const { init, read } = application({ 'package.json': manifest, 'joined.mjs': joined })
    const { code, stdout } = await init('--yes')
    expect({ code, stdout }).toEqual({ code: 0, stdout: expect.stringMatching(why) })
    expect(read('package.json')).toBe(manifest)
  })

  it('passes over what this user cannot read, and starts a folder that is "main"', async () => {
    const { sandbox } = application({
      'package.json': '{"main":"lib"}',
      'lib/index.js': 'setInterval(poll, 60_000)\n',
      'data/own.js': '',
      'secret.js': 'setInterval(poll, 60_000)\n',
    })
    chmodSync(sandbox.folder, 0o755)
    for (const name of ['data', 'secret.js']) chmodSync(join(sandbox.folder, name), 0)
    onTestFinished(() => chmodSync(join(sandbox.folder, 'data'), 0o700))
    const user =
      process.geteuid?.() === 0 ? ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups'] : []
    const words = [...user, process.execPath, CLI, 'init', sandbox.folder]
    const { code, stdout } = await sandbox.runCommand(words)
    expect({ code, stdout }).toEqual({ code: 2, stdout: expect.stringMatching(/^entry: lib\/index\.js$/m) })
    expect(stdout).toMatch(/note {2}lib\/index\.js:1: .*runOnce/)
    expect(stdout).toContain('node --import fd-broker/auto lib/index.js')
  })

  it('leaves package.json as it was if the disk is full', async () => {
    const { sandbox, read } = application({ 'package.json': SHOP, 'server.js': SERVER })
    const full = ['sh', '-c', 'ulimit -f 0; exec "$@"', 'sh', process.execPath, CLI]
    expect(await sandbox.runCommand([...full, 'init', sandbox.folder, '--yes'])).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/^ERR_FDB_OPTION: .*package\.json cannot be written \(EFBIG/),
    })
    expect(read('package.json')).toBe(SHOP)
    expect(readdirSync(sandbox.folder).filter(name => name.startsWith('package'))).toEqual(['package.json'])
  })

  it('writes the file that package.json leads to, with its mode', async () => {
    const { init, read, sandbox } = application({ 'real.json': SHOP, 'server.js': SERVER })
    chmodSync(join(sandbox.folder, 'real.json'), 0o640)
    symlinkSync('real.json', join(sandbox.folder, 'package.json'))
    expect(await init('--yes')).toMatchObject({ code: 0 })
    expect(read('real.json')).toContain('fd-broker/auto')
    expect(statSync(join(sandbox.folder, 'real.json')).mode & 0o777).toBe(0o640)
    expect(lstatSync(join(sandbox.folder, 'package.json')).isSymbolicLink()).toBe(true)
  })

  it('fails if there is nothing to start', async () => {
    const { code, stdout, stderr } = await application({ 'package.json': '{}' }).init('--yes')
    expect({ code, stderr }).toEqual({ code: 1, stderr: '' })
    expect(stdout).toMatch(/there is nothing to start: name the script by --entry/)
  })

  it('refuses a folder without a package.json, one that is no JSON, and an entry that is not there', async () => {
    expect(await application({}).init()).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/package\.json: run this in/),
    })
    for (const text of ['{', 'null', '[]'])
      expect(await application({ 'package.json': text }).init()).toMatchObject({
        code: 2,
        stderr: expect.stringMatching(/whose package\.json is JSON/),
      })
    const missing = application({ 'package.json': '{}' }).init('--entry', 'none.js')
    expect(await missing).toMatchObject({ code: 2, stderr: expect.stringMatching(/"none\.js"/) })
  })

  it('names the service as auto does: its script "upgrade" upgrades what its script "start" has started', async () => {
    const server = "require('node:http').createServer((_q, r) => r.end('x')).listen(8080, '127.0.0.1')\n"
    const program = await AutoProgram.of(server, 'app.cjs')
    const start = { start: 'node app.cjs' }
    program.write('package.json', JSON.stringify({ name: `@team/${program.name}`, scripts: start }))
    expect(await program.sandbox.run('init', program.sandbox.folder, '--yes')).toMatchObject({ code: 0 })
    const { scripts } = JSON.parse(program.read('package.json'))
    expect(scripts.upgrade).toBe(`fd-broker upgrade --service ${program.name}`)
    await program.serve()
    const runtime = `RUNTIME_DIRECTORY=${program.path('run')}`
    const words = scripts.upgrade.split(' ').slice(1)
    expect(await program.sandbox.runCommand(['env', runtime, process.execPath, CLI, ...words])).toMatchObject(
      {
        code: 0,
      },
    )
    await program.serves(2)
  })
})
