import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, vi } from 'vitest'
import { stay } from '../../src/member/operator/stay.js'

vi.mock('../../src/os/main-process.js', async original => ({
  ...(await original<object>()),
  mainProcess: () => 'this is a test',
}))

/** Starts a child that ends with code 0 when its input ends. */
function started(): { readonly child: ChildProcess; readonly pid: number; readonly exited: Promise<object> } {
  const child = spawn('cat', { stdio: ['pipe', 'ignore', 'ignore'] })
  return { child, pid: child.pid!, exited: once(child, 'exit').then(() => ({ code: 0, signal: null })) }
}

it('stays no longer than its last child, also if that one ends during a question about its successor', async () => {
  const [first, last] = [started(), started()]
  const control = join(tmpdir(), `fdb-stay-${process.pid}`)
  using _removed = { [Symbol.dispose]: () => rmSync(control, { force: true }) }
  let endedAt = Number.NaN
  const holder = createServer(asking => {
    last.child.stdin!.end()
    void last.exited.then(() => {
      endedAt = performance.now()
      holder.close()
      asking.destroy()
    })
  })
  await once(holder.listen(control), 'listening')
  const ended = stay(
    {
      settings: {
        control,
        logger: { info: () => {}, warn: () => {}, error: () => {} },
        mainProcess: 'stays',
        service: '',
        systemd: 'ignore',
      },
      machine: { phase: 'leaving' },
      shutdown: { retired: Promise.resolve('replaced') },
      announcer: { isReplacedMain: false },
      upgrades: { started: [first, last] },
    } as unknown as Parameters<typeof stay>[0],
    {},
  )
  first.child.stdin!.end()
  expect(await ended).toBe(0)
  expect(performance.now() - endedAt).toBeLessThan(3_000)
})
