import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { TARGETS } from '../../tools/prebuild/targets.mjs'
import { Asked } from './asked.js'
import { NODES, type TargetNode } from './nodes.js'
import { applicationFolder } from './package.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const HOOKS = fileURLToPath(new URL('native/hooks.mjs', import.meta.url))
const VITEST = join(ROOT, 'node_modules/vitest/vitest.mjs')
const TESTS = readdirSync(join(ROOT, 'test/native')).filter(name => name.endsWith('.test.ts'))

const folder = mkdtempSync(join(tmpdir(), 'fdb-targets-'))
afterAll(() => rmSync(folder, { recursive: true }))
const application = applicationFolder()

function prebuilt(target: string): string {
  const file = TARGETS.find(({ name }) => name === target)!.file
  const path = join(application, 'node_modules/fd-broker/prebuilds', file)
  if (!existsSync(path)) throw new Error(`prebuilds/${file} is not in the package: npm run prebuilds`)
  return path
}

interface Member {
  readonly pid: number
  readonly port: number
  readonly child: ChildProcess
  /** The lines that it has printed since. */
  readonly said: string[]
}

async function startMember({ command, env }: TargetNode, control: string): Promise<Member> {
  const [program, ...args] = command
  const child = spawn(program!, [...args, join(application, 'member.mjs'), control], {
    env: { ...process.env, ...env, FD_BROKER_ADDON: '' },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  onTestFinished(() => {
    child.kill('SIGKILL')
  })
  const said: string[] = []
  const lines = createInterface({ input: child.stdout! }).on('line', line => said.push(line))
  const [first] = (await Promise.race([
    once(lines, 'line'),
    once(child, 'exit').then(([code, signal]) => {
      throw new Error(`the member ended with ${code ?? signal}`)
    }),
  ])) as [string]
  return { pid: child.pid!, child, said, ...JSON.parse(first) }
}

/** Files of ours that a process has mapped. */
function addonsOf(pid: number): string[] {
  const files = readFileSync(`/proc/${pid}/maps`, 'utf8').match(/\/\S+\.node$/gm) ?? []
  return [...new Set(files)]
}

describe.each(Object.keys(NODES))('%s', target => {
  let node: TargetNode
  beforeAll(() => {
    node = NODES[target]!()
  })

  const run = (args: readonly string[], env: Record<string, string> = {}) => {
    const [program, ...before] = node.command
    const { status, signal, stdout, stderr } = spawnSync(program!, [...before, '--expose-gc', ...args], {
      cwd: ROOT,
      env: { ...process.env, NODE_OPTIONS: '', ...node.env, ...env, FD_BROKER_ADDON: prebuilt(target) },
      encoding: 'utf8',
      timeout: 280_000,
    })
    return { ended: signal ?? status, text: `${stdout}${stderr}` }
  }

  it('has the platform of the Node that it is tried with', () => {
    const { text } = run(['-p', 'process.platform + "-" + process.arch'])
    expect(target).toContain(text.trim())
  })

  it.each(TESTS)('passes test/native/%s', name => {
    const file = join('test/native', name)
    const { ended, text } = node.runsVitest
      ? run([VITEST, 'run', '--config', 'test/native/vitest.config.ts', '--reporter=tap-flat', file])
      : run(['--import', HOOKS, '--test-reporter=tap', file], { FD_BROKER_TARGET_LACKS: node.lacks ?? '' })
    expect(ended, text).toBe(0)
    expect(text).toMatch(/^ *ok 1 /m)
    expect(text).not.toMatch(/^ *not ok /m)
    // Each test that is skipped is one that the machine lacks something for.
    const skipped = text.match(/# SKIP/g)?.length ?? 0
    expect(skipped).toBe(node.lacks && /descriptors|sockets|peers/.test(name) ? 1 : 0)
  })

  it('one process replaces another under load: no request fails', async () => {
    const control = join(folder, `${target}.sock`)
    const first = await startMember(node, control)
    const asked = new Asked(first.port)
    await asked.answeredBy(first.pid, 100)
    const second = await startMember(node, control)
    const [code] = await once(first.child, 'exit')
    await asked.answeredBy(second.pid, 100)
    await asked.stop()
    console.log(target, Object.fromEntries(asked.answers), `${asked.failures.length} failed`)
    expect(asked.failures).toEqual([])
    expect([code, first.said.at(-1), second.port]).toEqual([0, 'replaced', first.port])
    expect([...asked.answers.keys()]).toEqual([first.pid, second.pid])
    expect(addonsOf(second.pid), 'the one that the resolver chose').toEqual([prebuilt(target)])
  })
})
