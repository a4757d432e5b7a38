import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { expect, it, onTestFinished, vi } from 'vitest'
import type * as ProxyEntry from '../../src/proxy/index.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'

const ROUTES = 40_000

it.runIf(NIGHTLY)(
  'a large configuration comes bit by bit, at most one in a turn of the event loop',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fd-broker-aside-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const file = join(folder, 'edge.json')
    const routes = Array.from({ length: ROUTES }, (_, n) => ({
      host: `h${n}.test`,
      respond: { body: `${n}\n` },
    }))
    const listeners = [{ name: 'web', address: 'tcp://127.0.0.1:0' }]
    writeFileSync(file, JSON.stringify({ service: 'aside', listeners, routes }))
    const built: typeof ProxyEntry = await import(new URL('../../dist/proxy.js', import.meta.url).href)

    let turn = 0
    let done = false
    const count = () => {
      turn++
      if (!done) setImmediate(count)
    }
    setImmediate(count)
    const asked: number[] = []
    const post = Worker.prototype.postMessage
    const spy = vi.spyOn(Worker.prototype, 'postMessage').mockImplementation(function (
      this: Worker,
      ...given
    ) {
      asked.push(turn)
      post.apply(this, given)
    })
    onTestFinished(() => spy.mockRestore())
    const config = await built.readConfigAside(file)
    done = true
    expect(config.routes).toHaveLength(ROUTES)
    expect(config.routes.at(-1)).toMatchObject({ host: `h${ROUTES - 1}.test` })
    expect(asked.length).toBeGreaterThan(100)
    expect(new Set(asked).size).toBe(asked.length)
  },
)

const REPORT = `data:text/javascript,${encodeURIComponent(
  `process.on("exit", () => { const { user, system } = process.cpuUsage(); process.stderr.write("cpu " + (user + system) / 1e3 + " ms") })`,
)}`

/** Milliseconds of processor time that the shipped command needs to check a file. */
function checkCost(file: string): number {
  const cli = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
  const { status, stderr } = spawnSync(process.execPath, [cli, 'proxy', '--check', '--config', file], {
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: `--import ${REPORT}` },
  })
  expect(status, stderr).toBe(0)
  return Number(/cpu (.*) ms/.exec(stderr)?.[1])
}

it.runIf(NIGHTLY)('the shipped command reads YAML for at most three times the processor time of JSON', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fd-broker-yaml-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const routes = perLane(20_000, 100_000)
  const hosts = Array.from({ length: routes }, (_, n) => `h${n}.test`)
  const listeners = [{ name: 'web', address: 'tcp://127.0.0.1:0' }]
  const json = join(folder, 'edge.json')
  const respond = { body: 'x' }
  writeFileSync(
    json,
    JSON.stringify({ service: 'cost', listeners, routes: hosts.map(host => ({ host, respond })) }),
  )
  const yaml = join(folder, 'edge.yaml')
  const lines = hosts.map(host => `  - host: ${host}\n    respond: { body: x }\n`)
  writeFileSync(
    yaml,
    `service: cost\nlisteners: [{ name: web, address: "tcp://127.0.0.1:0" }]\nroutes:\n${lines.join('')}`,
  )
  expect(checkCost(yaml)).toBeLessThan(3 * checkCost(json))
})
