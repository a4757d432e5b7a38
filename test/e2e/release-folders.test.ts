import { rmSync, symlinkSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { signalPid } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { released } from '../processes/released.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const FRESH = { freshShare: 1, slow: 0, streams: 0, writes: 0, idle: 0 }

/** A program in a folder for each release, which a link leads to, and its server. */
async function linked() {
  const program = await AutoProgram.of('')
  const link = program.path('current')
  const write = (release: string) => {
    program.write(`releases/${release}/package.json`, JSON.stringify({ name: program.name }))
    program.write(
      `releases/${release}/server.mjs`,
      `import http from 'node:http'
http.createServer((_, response) => response.end('release ${release}')).listen(8080)
`,
    )
  }
  write('1')
  write('2')
  symlinkSync('releases/1', link)
  const env = ['env', '-u', 'VITEST', `RUNTIME_DIRECTORY=${program.place.RUNTIME_DIRECTORY}`]
  return {
    program,
    /** The command as a shell starts it in the folder of the link. */
    inLink: (...command: string[]) => [
      ...['sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh', link],
      ...[...env, 'FD_BROKER_PROBATION=0', ...command],
    ],
    /** As a deployment does that keeps one release. */
    deploy: () => {
      rmSync(link)
      symlinkSync('releases/2', link)
      rmSync(program.path('releases/1'), { recursive: true })
    },
    answers: (release: string) =>
      until(
        `release ${release} answers`,
        async () => {
          const answer = await fetch(program.url, { headers: { connection: 'close' } })
          return (await answer.text()) === `release ${release}`
        },
        15_000,
        () => program.output,
      ),
  }
}

const NODE = ['node', '--import', 'fd-broker/auto', 'server.mjs']
const START = ['node', CLI, 'start', 'server.mjs', '--log-file', '../shop.log']

describe('a program under fd-broker/auto, started in the link of a release whose folder is deleted while it serves,', () => {
  it.each([
    ['fd-broker upgrade', NODE, null],
    ['the same command again', NODE, NODE],
    ['fd-broker start, also at first', START, START],
  ])('hands over to the next release, by %s', async (_how, first, next) => {
    const { program, inLink, deploy, answers } = await linked()
    const run = async (command: readonly string[]) => {
      if (command === NODE) await program.sandbox.launch(inLink(...command))
      else expect(await program.sandbox.runCommand(inLink(...command))).toMatchObject({ code: 0 })
    }
    await run(first)
    await program.serves(1)
    await answers('1')
    deploy()
    await answers('1')
    if (next === null) await program.command('upgrade')
    else await run(next)
    await program.serves(2)
    await answers('2')
  })
})

describe('fd-broker run', () => {
  it.runIf(NIGHTLY)(
    'serves on when the folder of its release is deleted, and upgrades to the next one under load',
    async () => {
      const { run, one, two, upgrade, answers } = await released(['--ready', 'fd'])
      const load = await loadOn(run.url, { ...FRESH, rate: perLane(100, 300) })
      rmSync(one, { recursive: true })
      expect(await answers()).toBe('1')
      expect(await upgrade(two)).toMatchObject({ code: 0, stderr: '' })
      await until('the next release answers', async () => (await answers()) === '2')
      await load.stop()
    },
  )

  it('starts a version again that has ended from the release that it was upgraded to', async () => {
    const settings = ['--ready', 'fd', '--restart', 'always', '--restart-delay', '10ms', '--probation', '0ms']
    const { run, link, two, upgrade, settled } = await released(settings)
    expect(await upgrade(two)).toMatchObject({ code: 0, stderr: '' })
    expect(await settled()).toBe('2')
    // The way back is `fd-broker rollback`, which the message names.
    expect(await upgrade(`${link}.previous`)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining(`ERR_FDB_NO_BINARY: ${link}.previous is no release of its own`),
    })
    signalPid((await run.status()).pid, 'SIGKILL')
    await run.serving(3)
    expect(await settled()).toBe('2')
  })
})
