import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { handles } from '../processes/marked.js'
import { procText } from '../processes/proc-file.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const LIBRARY = new URL('../../dist/index.js', import.meta.url)

/** Creates a file when it serves, and ends with code 7 when it is told to end. */
const SERVER = `
import { existsSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
const { join } = await import(${JSON.stringify(String(LIBRARY))})
const member = await join({ service: 'shop', control: process.argv[1] })
const web = await member.listen('tcp://127.0.0.1:0')
web.serve(createServer())
await member.ready()
process.on('SIGTERM', async () => {
  if (process.env.DRAINS) {
    const closed = member.close()
    while (existsSync(process.argv[1])) await new Promise(setImmediate)
    writeFileSync(process.argv[1] + '.ends', '')
    while (!existsSync(process.argv[1] + '.go')) await new Promise(resolve => setTimeout(resolve, 10))
  } else writeFileSync(process.argv[1] + '.ends', '')
  setTimeout(() => process.exit(7), 100)
})
writeFileSync(process.argv[1] + '.serves', '')
`

/** The helpers, which are older children of the same process, end with the server. */
const SHELL = `
for helper in 1 2 3; do (until [ -e "$CONTROL.ends" ]; do sleep 0.01; done) & done
"$NODE" --input-type=module -e "$SERVER" "$CONTROL" &
until [ -e "$CONTROL.serves" ]; do sleep 0.02; done
echo
exec "$NODE" "$CLI" keep --control "$CONTROL"`

/** Runs it, with a server and its helpers as older children of the same process. */
async function kept(more: NodeJS.ProcessEnv = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-keep-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const variables = { NODE: process.execPath, SERVER, CLI, CONTROL: join(folder, 'shop.sock') }
  const kept = spawn('sh', ['-c', SHELL], {
    env: { ...process.env, ...variables, ...more },
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  })
  onTestFinished(() => {
    try {
      process.kill(-kept.pid!, 'SIGKILL')
    } catch {
      // All of them have ended.
    }
  })
  await once(kept.stdout!, 'data')
  await until('the command runs', () => procText(kept.pid!, 'cmdline').includes('\0keep\0'))
  return { kept, control: variables.CONTROL, ended: once(kept, 'exit') }
}

it.runIf(NIGHTLY)(
  'fd-broker keep ends with the code of the server, whatever else ends with the server',
  async () => {
    const { kept: command, ended } = await kept()
    await until('it passes signals on', () => handles(command.pid!, 'SIGHUP'))
    command.kill('SIGTERM')
    expect(await ended).toEqual([7, null])
  },
)

it('fd-broker keep soon waits without Node, and passes signals on all the same', async () => {
  const { kept: command, ended } = await kept()
  const kib = () => Number(/^VmRSS:\s+(\d+)/m.exec(procText(command.pid!, 'status'))?.[1])
  await until('Node runs it', () => handles(command.pid!, 'SIGHUP'))
  await until('it needs little memory', () => {
    // This one it only takes, in every moment of the change.
    command.kill('SIGUSR2')
    return kib() < 3 * 1024
  })
  command.kill('SIGUSR2')
  command.kill('SIGTERM')
  expect(await ended).toEqual([7, null])
})

it.runIf(NIGHTLY)(
  'fd-broker keep waits for a server that has left its control path and still has clients',
  async () => {
    const { kept: command, control, ended } = await kept({ DRAINS: '1' })
    const kib = () => Number(/^VmRSS:\s+(\d+)/m.exec(procText(command.pid!, 'status'))?.[1])
    await until('Node runs it', () => handles(command.pid!, 'SIGHUP'))
    await until('it waits without Node', () => kib() < 3 * 1024)
    command.kill('SIGTERM')
    await until('the server has left', () => existsSync(`${control}.ends`))
    // Node passes the signal on, and finds that no process serves.
    await until('it waits without Node again', () => !handles(command.pid!, 'SIGHUP') && kib() < 3 * 1024)
    writeFileSync(`${control}.go`, '')
    expect(await ended).toEqual([7, null])
  },
)
