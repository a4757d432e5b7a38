import { spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it, onTestFinished } from 'vitest'
import { join } from '../../src/member/joining/join.js'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY } from '../lanes/lane.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** Has a page of each of these files of this process in a pipe, until its input ends: the kernel seals none of them. */
const HOLDING = `
import os, sys
kept = []
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDONLY)
    kept.append(os.pipe())
    os.splice(fd, kept[-1][1], 4096, offset_src=0)
print('held', flush=True)
sys.stdin.read()
`

it.runIf(NIGHTLY)(
  'a daemon starts again although a process keeps pages of the state in use, and seals it when that ends',
  async ({ skip }) => {
    if (!has('python3')) skip('there is no python3')
    const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-held-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const control = joinPath(folder, 'c.sock')
    const serve = () => {
      const daemon = spawn(process.execPath, [CLI, 'serve', '--control', control], {
        stdio: 'ignore',
        env: { ...process.env, NODE_OPTIONS: '' },
      })
      onTestFinished(() => void daemon.kill('SIGKILL'))
      return daemon
    }
    const status = async () => {
      using client = await OperatorClient.connect(control)
      return (await client.status()) as { pid: number; services: { service: string; phase: string }[] }
    }
    const phase = async () => (await status().catch(() => null))?.services[0]?.phase
    const first = serve()
    await until('it listens', () => status().catch(() => null), 20_000)
    const member = await join({ service: 'shop', control, hosting: 'daemon', drain: { timeout: 0 } })
    onTestFinished(() => member.close({ timeout: 0 }))
    await member.ready()
    const own = '/proc/self/fd'
    const isSegment = (fd: string) => {
      try {
        return readlinkSync(`${own}/${fd}`).includes('fdb-state')
      } catch {
        return false
      }
    }
    const segments = readdirSync(own)
      .filter(isSegment)
      .map(fd => `/proc/${process.pid}/fd/${fd}`)
    const holder = spawn('python3', ['-c', HOLDING, ...segments], { stdio: ['pipe', 'pipe', 'inherit'] })
    onTestFinished(() => void holder.kill('SIGKILL'))
    await new Promise(resolve => holder.stdout.once('data', resolve))

    first.kill('SIGKILL')
    const second = serve()
    await until('it knows the service', async () => (await phase()) === 'rebuilding', 20_000)
    // Longer than an attempt takes.
    for (const end = performance.now() + 1_000; performance.now() < end; )
      expect([(await status()).pid, await phase()]).toEqual([second.pid, 'rebuilding'])
    holder.stdin.end()
    await until('the member serves', async () => (await phase()) === 'idle', 20_000)
    expect(second.exitCode).toBe(null)
  },
)
