import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { expect, it, onTestFinished, vi } from 'vitest'
import type * as ProxyEntry from '../../src/proxy/index.js'
import { NIGHTLY } from '../lanes/lane.js'

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
