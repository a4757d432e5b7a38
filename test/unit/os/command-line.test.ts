import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { startedAs, successorCommand } from '../../../src/os/command-line.js'
import { fdLimits } from '../../../src/os/limits.js'
import { spawnSuccessor } from '../../../src/versions/spawn-successor.js'
import { bundled } from '../../processes/bundled.js'
import { compiled } from '../../processes/compiled.js'
import { openFds } from '../../processes/descriptors.js'
import { hasEnded } from '../../processes/launch.js'

const project = resolve(import.meta.dirname, '../../..')
/** A module that does nothing: an option of Node that a successor keeps. */
const preloaded = 'data:text/javascript,'

let host: ReturnType<typeof bundled>
let folder: string
beforeEach(() => {
  host = bundled('host-command-line.ts')
  folder = realpathSync(mkdtempSync(join(tmpdir(), 'fdb-command-')))
  mkdirSync(join(folder, 'v1'))
  symlinkSync('v1', join(folder, 'current'))
  symlinkSync(process.execPath, join(folder, 'v1', 'node'))
  symlinkSync(host.file, join(folder, 'v1', 'main.mjs'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function start(argv0: string, cwd: string, env: NodeJS.ProcessEnv = {}) {
  const args = ['--import', preloaded, 'main.mjs', 'serve', '', '--flag', 'a b']
  const result = spawnSync('sh', ['-c', 'cd "$0" && exec "$@"', cwd, argv0, ...args], {
    env: { ...host.env, GONE: '1', ...env },
    encoding: 'utf8',
  })
  if (result.status !== 0) throw new Error(result.stderr)
  return JSON.parse(result.stdout)
}

describe('the command line of the successor', () => {
  it('equals that of this process, word for word, whatever it did since', () => {
    const cwd = join(folder, 'current')
    const seen = start('./node', cwd)
    expect(seen).toMatchObject({
      argv0: './node',
      execArgv: ['--import', preloaded],
      script: 'main.mjs',
      args: ['serve', '', '--flag', 'a b'],
      cwd,
    })
    expect(seen.command).toMatchObject({
      file: `${cwd}/./node`,
      argv: ['./node', '--import', preloaded, 'main.mjs', 'serve', '', '--flag', 'a b'],
      cwd,
      env: { EXTRA: '1', PWD: cwd, gone: false, had: true },
    })
  })

  it('finds a bare name by PATH again, and an absolute one as it stands', () => {
    const cwd = join(folder, 'v1')
    const path = `/nowhere:${folder}/current:${process.env.PATH}`
    expect(start('node', cwd, { PATH: path }).command.file).toBe(`${folder}/current/node`)
    expect(start(`${folder}/current/node`, cwd).command.file).toBe(`${folder}/current/node`)
  })

  it('has the start folder as the kernel names it if PWD cannot be looked up', () => {
    symlinkSync('loop', join(folder, 'loop'))
    const cwd = join(folder, 'v1')
    const seen = spawnSync(process.execPath, ['--import', preloaded, 'main.mjs'], {
      cwd,
      env: { ...host.env, PWD: join(folder, 'loop') },
      encoding: 'utf8',
    })
    expect(seen.stderr).toBe('')
    expect(JSON.parse(seen.stdout).cwd).toBe(cwd)
  })

  it('cannot be started in a folder that cannot be looked up, and says why', () => {
    symlinkSync('loop', join(folder, 'loop'))
    expect(() => successorCommand({ cwd: join(folder, 'loop') })).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_NO_CWD', message: expect.stringContaining('ELOOP') }),
    )
  })

  it('says what is missing', () => {
    expect(() => successorCommand({ argv: ['./no-such'] })).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_NO_BINARY',
        message: expect.stringContaining('there is no program "./no-such"'),
      }),
    )
    const file = `${folder}/a file`
    writeFileSync(file, '')
    expect(() => successorCommand({ argv: ['node'], cwd: file })).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_NO_CWD', message: expect.stringContaining('is no folder') }),
    )
    expect(() => successorCommand({ argv: ['no-such'], env: { PATH: folder } })).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_NO_BINARY',
        message:
          'there is no program "no-such": no executable of that name is in a folder of PATH. Correct its name, or give its absolute path',
      }),
    )
    expect(() => successorCommand({ cwd: join(folder, 'gone') })).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_NO_CWD',
        message: expect.stringMatching(
          /^the folder .*gone to start in does not exist: create it, or give another/,
        ),
      }),
    )
    expect(startedAs.argv0).not.toBe('')
  })
})

describe('spawnSuccessor', () => {
  it('runs it in a session of its own and tells how it exited', async () => {
    const script =
      'require("fs").writeFileSync("out", process.env.WORD + " " + process.argv0); process.exit(7)'
    const env = { WORD: 'hello' }
    const command = successorCommand({ argv: [process.execPath, '-e', script], cwd: folder, env })
    const logged: string[] = []
    const successor = await spawnSuccessor(command, {
      control: join(folder, 'control'),
      stdio: 'ignore',
      logger: { info: (_, message) => logged.push(message) },
    })
    expect(successor.pid).toBeGreaterThan(0)
    expect(await successor.exited).toEqual({ code: 7, signal: null })
    expect(logged).toEqual(['successor started', 'successor exited'])
    expect(readFileSync(join(folder, 'out'), 'utf8')).toBe(`hello ${process.execPath}`)
  })

  it('tells the exit also while no descriptor is free, and finds later whom it has left behind', () => {
    const script = `
      import { closeSync, existsSync, openSync, readFileSync, statSync } from 'node:fs'
      import { successorCommand } from '${compiled('os/command-line')}'
      import { spawnSuccessor } from '${compiled('versions/spawn-successor')}'
      const left = process.argv[1]
      const argv = ['sh', '-c', 'trap "exit 3" TERM; sleep 60 & echo $! > "$0"; wait', left]
      const successor = await spawnSuccessor(successorCommand({ argv }), { control: left, stdio: 'ignore' })
      while (!existsSync(left) || statSync(left).size === 0) await new Promise(resolve => setTimeout(resolve, 5))
      const pid = Number(readFileSync(left, 'latin1'))
      const fill = []
      try {
        for (;;) fill.push(openSync('/dev/null', 'r'))
      } catch {}
      process.kill(successor.pid, 'SIGTERM')
      const { code } = await successor.exited
      for (const fd of fill) closeSync(fd)
      const ended = await successor.end(0)
      let stat = ') Z '
      try {
        // The process may just be reaped.
        stat = readFileSync('/proc/' + pid + '/stat', 'latin1')
      } catch {}
      const lives = !/\\) [ZX] /.test(stat)
      console.log(JSON.stringify({ code, ended, lives }))
    `
    const node = [process.execPath, '--input-type=module', '-e', script]
    const said = spawnSync('sh', ['-c', 'ulimit -n 64; exec "$@"', 'sh', ...node, join(folder, 'left')], {
      cwd: project,
      encoding: 'utf8',
    })
    expect([said.stdout, said.stderr]).toEqual(['{"code":3,"ended":true,"lives":false}\n', ''])
  })

  it('keeps no descriptor of a process that was released, and leaves alone those that it has started', async () => {
    const argv = ['sh', '-c', 'sleep 60 & echo $! > left']
    const command = successorCommand({ argv, cwd: folder })
    const pidfds = () => openFds(process.pid).filter(target => target.includes('pidfd')).length
    const before = pidfds()
    const successor = await spawnSuccessor(command, { control: join(folder, 'control'), stdio: 'ignore' })
    successor.release()
    await successor.exited
    const left = Number(readFileSync(join(folder, 'left'), 'latin1'))
    expect(pidfds()).toBe(before)
    expect(await successor.end(0)).toBe(true)
    expect(hasEnded(left)).toBe(false)
    process.kill(left)
  })

  it('rejects what cannot be executed', async () => {
    const file = join(folder, 'text')
    writeFileSync(file, '#!/no/such/interpreter\n')
    chmodSync(file, 0o755)
    const command = successorCommand({ argv: [file], cwd: folder })
    const started = spawnSuccessor(command, { control: join(folder, 'control') })
    await expect(started).rejects.toMatchObject({ code: 'ERR_FDB_SPAWN', details: { file } })
  })
})

describe('the limits of this process', () => {
  it('come from the kernel', () => {
    const { soft, hard, open } = fdLimits()
    expect(soft).toBeGreaterThan(0)
    expect(hard).toBeGreaterThanOrEqual(soft!)
    expect(open).toBeGreaterThan(2)
    expect(open).toBeLessThan(soft!)
  })
})
