import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it, vi } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { WITH_EMPTY_RUN } from '../processes/namespace.js'
import { type Ran, Sandbox } from './cli-processes.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

const PROGRAM = fileURLToPath(new URL('../../dist/program.cjs', import.meta.url))

/**
 * Runs a command line that starts nothing: at night in a process of its own, in the gate within this process, because each process takes a tenth of a
 * second.
 */
async function said(...args: string[]): Promise<Ran> {
  if (NIGHTLY) return await Sandbox.open().run(...args)
  const { main } = createRequire(import.meta.url)(PROGRAM) as typeof import('../../src/cli/program.js')
  const texts = { stdout: '', stderr: '' }
  const spies = (['stdout', 'stderr'] as const).map(name =>
    vi.spyOn(process[name], 'write').mockImplementation(text => {
      texts[name] += String(text)
      return true
    }),
  )
  const before = process.stdout.listeners('error')
  try {
    return { code: await main(args, () => {}), ...texts }
  } finally {
    for (const spy of spies) spy.mockRestore()
    for (const listener of process.stdout.listeners('error'))
      if (!before.includes(listener)) process.stdout.off('error', listener as () => void)
  }
}

const folder = mkdtempSync(join(tmpdir(), 'fdb-usage-'))
afterAll(() => rmSync(folder, { recursive: true }))
const EMPTY = join(folder, 'empty')
writeFileSync(EMPTY, '', { mode: 0o755 })

describe('fd-broker on the command line', () => {
  it('prints the last lines of a log, also those of rotated files', async () => {
    const log = join(folder, 'shop.log')
    writeFileSync(`${log}.3`, 'too old\n')
    writeFileSync(`${log}.2`, 'a\nb\n')
    writeFileSync(`${log}.1`, 'c\nd')
    writeFileSync(log, 'd\ne\n')
    const last = async (lines: number) => (await said('logs', '--log-file', log, '-n', String(lines))).stdout
    expect(await last(1)).toBe('e\n')
    expect(await last(2)).toBe('dd\ne\n')
    expect(await last(4)).toBe('b\nc\ndd\ne\n')
    expect(await last(100)).toBe('too old\na\nb\nc\ndd\ne\n')
  })

  it('prints each failure as JSON if --json is given, not for the program behind --', async () => {
    const control = ['--control', '/nowhere/no.sock', '--json']
    const section = ['--section', 's']
    for (const args of [
      ['status', ...control],
      ['upgrade', ...control],
      ['stop', ...control],
      ['workers', 'restart', ...control],
      ['routes', 'list', ...control],
      ['certificates', 'list', ...control],
      ['servers', 'list', ...control],
      ['fd', 'list', ...control],
      ['state', 'stats', ...control],
      ['state', 'verify', ...control],
      ['state', 'import', '--file', '/nowhere/a.jsonl', ...section, ...control],
    ]) {
      const { code, stdout } = await said(...args)
      expect([args, code, JSON.parse(stdout)]).toEqual([
        args,
        expect.any(Number),
        {
          ok: false,
          code: expect.stringMatching(/^ERR_FDB_/),
          message: expect.any(String),
        },
      ])
      expect(code).not.toBe(0)
    }
    for (const wrong of [['--nosuch'], ['--timeout', '5'], ['extra']]) {
      const { code, stdout, stderr } = await said('status', '--json', ...wrong)
      const failure = JSON.parse(stdout) as { message: string }
      expect({ exit: code, ...failure }).toMatchObject({ exit: 2, ok: false, code: 'ERR_FDB_OPTION' })
      expect(stderr.replaceAll('\n', '')).toContain(failure.message.slice(0, 25))
    }
    expect(await said('exec', '--control', '/nowhere/no.sock', 'web', '--', 'a', '--json')).toMatchObject({
      stdout: '',
    })
  })

  it('puts no descriptor that it was not given: one of its own runtime, or one in place of a closed stdin', () => {
    const put = (end: string, ...more: string[]) => {
      const args = [process.execPath, CLI, 'fd', 'put', 'it', '--control', '/nowhere/no.sock', ...more]
      return spawnSync('sh', ['-c', `"$@" ${end}`, 'sh', ...args], { encoding: 'utf8' })
    }
    for (const said of [put('<&-'), put('</dev/null', '--descriptor', '3')]) {
      expect(said).toMatchObject({ status: 2, stderr: expect.stringContaining('was given no descriptor') })
      expect(said.stderr).toContain('ERR_FDB_OPTION')
    }
    const given = put(`<${CLI}`)
    expect(given.stderr).not.toContain('ERR_FDB_OPTION')
  })

  it('has help with examples for every command, exit code 0', async () => {
    const verbs = ['list', 'add', 'remove']
    const routes = verbs.map(name => ['routes', name])
    const servers = [...verbs, 'drain', 'undrain', 'weight'].map(name => ['servers', name])
    const certificates = verbs.map(name => ['certificates', name])
    for (const command of [
      [],
      ['status'],
      ['upgrade'],
      ['serve'],
      ['proxy'],
      ...routes,
      ...certificates,
      ...servers,
    ]) {
      const { code, stdout, stderr } = await said(...command, '--help')
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout).toContain(['Usage: fd-broker', ...command].join(' '))
      expect(stdout).toContain('Examples:')
      const option = command[0] === 'proxy' ? '--config' : '--control'
      expect(stdout).toContain(`$ fd-broker ${command.join(' ') || 'upgrade'} ${option} `)
    }
  })

  it('shows the commands of the first day first, with an example', async () => {
    const { stdout } = await Sandbox.open().run('--help')
    const [, commands = ''] = /\nCommands:\n([\s\S]*?)\n\n/.exec(stdout) ?? []
    const names = [...commands.matchAll(/^ {2}([\w-]+)/gm)].map(([, name]) => name)
    expect(names.slice(0, 7)).toEqual(['start', 'status', 'logs', 'upgrade', 'stop', 'init', 'doctor'])
    expect(stdout).toContain('Examples:\n  $ fd-broker start server.js\n')
  })

  it('tells the version of the package', async () => {
    const sandbox = Sandbox.open()
    const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
    expect(await sandbox.run('--version')).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' })
  })

  it.each([
    [['frobnicate'], /unknown command 'frobnicate'/],
    [['restart'], /^error: unknown command 'restart': fd-broker upgrade starts the next version\n/],
    [['ls'], /^error: unknown command 'ls': fd-broker status shows a service\n/],
    [['server.js'], /unknown command 'server\.js': fd-broker start server\.js starts it\n/],
    // Node itself would read the option before the command does.
    [
      ['start', '--env-files', 'server.js'],
      /unknown option '--env-files': load the file by process\.loadEnvFile\(\) in the program/,
    ],
    [['status', '--control', ''], /--control <path>.*Give the path of a Unix socket/],
    [['status', '--control', 'x', '--jsno'], /unknown option '--jsno'/],
    [['status', '--control', 'x', '--timeout', '5'], /argument '5' is invalid.*500ms, 30s, 2m, 1h/],
    [['upgrade', '--control', 'x', '--timeout', '0s'], /argument '0s' is invalid/],
    [
      ['upgrade', '--control', 'x', '--timeout', '1000h'],
      /argument '1000h' is invalid.*to 596h \(24\.8 days\)/,
    ],
    [['proxy'], /required option '--config <file>' not specified\n/],
    [['proxy', 'edge.yaml'], /'--config <file>' not specified: give the file as --config edge\.yaml\n/],
    [['stop', 'shop'], /too many arguments for 'stop'\..*: name the service by --service shop\n/],
    [
      ['upgrade', '--control', 'x', 'shop'],
      /name the service by --service shop, or give .* after --: -- shop\n/,
    ],
    [['status', 'shop'], /too many arguments for 'status'\..*: name the service by --service shop\n/],
    [
      ['start', '--inspect', 'server.js'],
      /unknown option '--inspect': kill -USR1 PID opens the inspector of a running program\n/,
    ],
    [
      ['start', '--enable-source-maps', 'server.js'],
      /option '--enable-source-maps': set an option of Node in the environment: NODE_OPTIONS='--enable-source-maps'\n/,
    ],
    [
      ['start', '--import', 'tsx', 'src/server.tsx'],
      /^error: unknown option '--import': set an option of Node in the environment: NODE_OPTIONS='--import tsx'\n/,
    ],
    [
      ['start', '--name', 'shop', '-r', 'dotenv/config', 'server.js'],
      /unknown option '-r': set an option of Node in the environment: NODE_OPTIONS='-r dotenv\/config'\n/,
    ],
    [
      ['start', '--watch', 'server.js'],
      /'--watch': start has no watch mode: in development use node --watch --import fd-broker\/auto server\.js\n/,
    ],
    [['start', '--bogus', 'server.js'], /^error: unknown option '--bogus'\n\(--help/],
    [['start', 'server.js', '--name', ''], /--name <service>' argument '' is invalid\. Give a name\./],
    [['start', 'server.js', '--name', 'a/b'], /--name <service>' argument 'a\/b' is invalid\. .*no slash/],
    [['start', 'server.js', '--pid-file', ''], /--pid-file <file>' argument '' is invalid/],
    [['start', ''], /value '' is invalid for argument 'program'\. Give the file/],
    [
      ['start', 'server.js', '--ready', 'health'],
      /--ready <how>' argument 'health' is invalid.*such as \/health/,
    ],
    [['stop', '--service', ''], /--service <name>' argument '' is invalid/],
    [['workers', 'start', '--service', '', '--', 'true'], /--service <name>' argument '' is invalid/],
    [['doctor', '--service', ''], /--service <name>' argument '' is invalid/],
    [
      ['start', 'server.js', '--port', '3'],
      /unknown option '--port': put the options of the program after --\n/,
    ],
    [['help', 'frobnicate'], /^error: unknown command 'frobnicate'\n/],
    ...['abc', '0', '257'].map((count): [string[], RegExp] => [
      ['proxy', '--config', 'x', '--check', '--workers', count],
      new RegExp(`argument '${count}' is invalid. Give a number from 1 to 256, or auto`),
    ]),
    [
      ['workers', 'start', '--service', 'x', '--count', 'y', '--', 'true'],
      /--count <number>.*'y' is invalid.*1 to 256/,
    ],
    [['workers', 'set', '--control', 'x', 'abc'], /'abc' is invalid.*1 to 256/],
    [['proxy', '--config', 'x', '--log-level', 'loud'], /argument 'loud' is invalid/],
    [['serve', '--control', 'x', '--log-level', 'loud'], /argument 'loud' is invalid.*trace, debug, info/],
  ])('exits 2 with a plain sentence for %j', async (args, message) => {
    const { code, stdout, stderr } = await said(...args)
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' })
    expect(stderr).toMatch(message)
    expect(stderr).toContain('--help')
  })

  it.each([
    [['adopt', '--pid', 'abc'], /^ERR_FDB_OPTION: .*"abc"/],
    [['run', '--listen', 'web=foo', '--', 'true'], /^ERR_FDB_SPEC: .*foo/],
    [['serve', '--control', 'x', '--check'], /^ERR_FDB_OPTION: .*--config/],
    [['state', 'stats', '--control', 'x', '--file', 'y'], /^ERR_FDB_STATE_SOURCE: /],
    ...perLane<[string[], RegExp][]>(
      [],
      [
        [['run'], /^ERR_FDB_OPTION: there is no program to run/],
        [['run', '--ready', 'nonsense', '--', 'true'], /^ERR_FDB_OPTION: .*nonsense/],
        [
          ['run', '--listen', 'web', '--', 'true'],
          /^ERR_FDB_OPTION: option "listen" is "web"; give NAME=ADDRESS/,
        ],
        [['routes', 'add', '--control', 'x'], /^ERR_FDB_OPTION: which routes/],
      ],
    ),
  ])('exits 2 where the values of options are wrong: %j', async (args, message) => {
    const sandbox = Sandbox.open()
    const { code, stdout, stderr } = await sandbox.run(...args)
    expect({ code, stdout, stderr }).toEqual({ code: 2, stdout: '', stderr: expect.stringMatching(message) })
  })

  it.each([
    // The log of run is JSON.
    [['run', '--', 'nosuch-program'], /there is no program \W+nosuch-program\W+: .*ERR_FDB_NO_BINARY/],
    [
      ['exec', '--control', 'x', 'web', '--', 'nosuch-program'],
      /^ERR_FDB_NO_BINARY: there is no program "nosuch-program": .*in a folder of PATH\./,
    ],
    [
      ['run', '--cwd', '/nowhere', '--', 'true'],
      /the folder \/nowhere to start in does not exist.*ERR_FDB_NO_CWD/,
    ],
    [['run', '--', EMPTY], /\(ENOEXEC\): it is empty, for another processor, or a script without a #! line/],
  ])('says what is not there in the words of its options: %j', async (args, message) => {
    const { code, stderr } = await Sandbox.open().run(...args)
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringMatching(message) })
  })

  it.each([
    [['status', '--control', '/nowhere/no.sock'], 3, /^ERR_FDB_NO_HOLDER: no process serves at \/nowhere/],
    [['run', '--', './server'], 1, /the start folder \S+\/release no longer exists.*ERR_FDB_NO_CWD/s],
    [['init'], 1, /^ERR_FDB_NO_CWD: the current folder was removed: run this command in another/],
  ])('works in a folder that was removed, or says so: %j', (args, status, message) => {
    const release = join(mkdtempSync(join(folder, 'gone-')), 'release')
    const script = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"'
    const ran = spawnSync('sh', ['-c', script, release, process.execPath, CLI, ...args], { encoding: 'utf8' })
    expect(ran).toMatchObject({ status, stderr: expect.stringMatching(message) })
    expect(ran.stderr).not.toMatch(/uv_cwd|\bat \S+ \(node:/)
  })

  it.each([
    [
      ['start', 'loop/server.js'],
      2,
      /^ERR_FDB_OPTION: \S+\/loop\/server\.js cannot be looked at \(ELOOP\): give the file/,
    ],
    [
      ['logs', '--log-file', 'loop/shop.log'],
      2,
      /^ERR_FDB_OPTION: loop\/shop\.log cannot be looked at \(ELOOP\): /,
    ],
    [
      ['init', 'loop'],
      2,
      /^ERR_FDB_OPTION: .*\/loop"; give a folder whose package\.json can be read \(ELOOP\)/,
    ],
    [
      ['init', 'app', '--entry', '../loop/server.js'],
      2,
      /^ERR_FDB_OPTION: option "entry" is "\.\.\/loop\/server\.js"; give a file in /,
    ],
    [['doctor', '--json'], 0, /^$/],
  ])('says which path it cannot follow: %j', (args, status, message) => {
    const cwd = mkdtempSync(join(folder, 'paths-'))
    for (const name of ['loop', 'server.js']) symlinkSync(name, join(cwd, name))
    mkdirSync(join(cwd, 'app'))
    writeFileSync(join(cwd, 'app/package.json'), '{"name":"shop"}')
    const ran = spawnSync(process.execPath, [CLI, ...args], { encoding: 'utf8', cwd })
    expect(ran).toMatchObject({ status, stderr: expect.stringMatching(message) })
    expect(ran.stderr).not.toMatch(/\bat \S+ \(/)
  })

  it('proxy --check: a service whose name is none of a file needs a control path', async () => {
    const sandbox = Sandbox.open()
    const config = join(sandbox.folder, 'edge.yaml')
    writeFileSync(config, 'service: a/b\nlisteners: [{ name: http, address: "tcp://127.0.0.1:0" }]\n')
    for (const more of [['--check'], []]) {
      expect(await sandbox.run('proxy', '--config', config, ...more)).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(
          /^ERR_FDB_CONFIG: .*edge\.yaml:1:10: service: "a\/b" cannot be .* give "control"$/m,
        ),
      })
    }
  })

  it('proxy --check: warns of a state file whose folder does not exist', async () => {
    const sandbox = Sandbox.open()
    const config = join(sandbox.folder, 'edge.yaml')
    const folder = join(sandbox.folder, 'no-folder')
    writeFileSync(
      config,
      `service: edge\nlisteners: [{ name: http, address: "tcp://127.0.0.1:0" }]\nstateFile: ${folder}/state\n`,
    )
    expect(await sandbox.run('proxy', '--config', config, '--check')).toMatchObject({
      code: 0,
      stderr: expect.stringContaining(`warning: stateFile: there is no folder ${folder}`),
    })
  })

  it.each(perLane(['status', 'logs --service nope'], ['status', 'routes list', 'logs --service nope']))(
    'exits 3 where %s finds no service',
    async line => {
      const sandbox = Sandbox.open()
      const env = ['env', 'RUNTIME_DIRECTORY=', 'XDG_RUNTIME_DIR=', 'FD_BROKER_CONTROL=']
      const away = [...WITH_EMPTY_RUN, ...env]
      const { code, stderr } = await sandbox.runCommand([...away, process.execPath, CLI, ...line.split(' ')])
      expect({ code, stderr }).toEqual({
        code: 3,
        stderr: expect.stringMatching(/^ERR_FDB_NO_HOLDER: no service (?:was found|"nope" runs).*--control/),
      })
    },
  )

  it.skipIf(process.geteuid?.() !== 0)(
    'exits 5 at the socket of another user; the daemon’s own is told that it holds nothing',
    async () => {
      const sandbox = Sandbox.open()
      const nobody = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups']
      await sandbox.serve('--control', sandbox.control)
      await sandbox.statusWhere('the daemon serves', ({ pid }) => pid !== undefined)
      expect((await sandbox.run('upgrade', '--control', sandbox.control)).stderr).toMatch(
        /^ERR_FDB_SERVICE: there is no service: this daemon holds none yet, start a member/m,
      )
      for (const command of perLane(['upgrade'], ['status', 'upgrade', 'stop']))
        expect(
          await sandbox.runCommand([...nobody, process.execPath, CLI, command, '--control', sandbox.control]),
          command,
        ).toMatchObject({ code: 5, stderr: expect.stringMatching(/^ERR_FDB_DENIED: .*EACCES/) })
    },
  )

  it('shows the help and exits 2 without a command', async () => {
    const sandbox = Sandbox.open()
    const { code, stderr } = await sandbox.run()
    expect(code).toBe(2)
    expect(stderr).toContain('Usage: fd-broker')
  })

  it.each([
    ['a configuration that is valid', ['proxy', '--check', '--config']],
    ...perLane<[string, string[]][]>(
      [],
      [
        ['help', ['--help']],
        ['the help of a command', ['proxy', '--help']],
      ],
    ),
  ])('exits 1 with one line where %s finds no room on stdout', async (_, args) => {
    const sandbox = Sandbox.open()
    const file = join(sandbox.folder, 'edge.json')
    const listeners = [{ name: 'http', address: 'tcp://127.0.0.1:0' }]
    const routes = [{ host: '*', respond: { body: 'one' } }]
    writeFileSync(file, JSON.stringify({ service: 'edge', listeners, routes }))
    const command = [process.execPath, CLI, ...args, ...(args.includes('--config') ? [file] : [])]
    expect(await sandbox.runCommand(['sh', '-c', 'exec "$@" >/dev/full', 'sh', ...command])).toEqual({
      code: 1,
      stdout: '',
      stderr: 'stdout cannot be written: ENOSPC: no space left on device, write\n',
    })
  })
})
