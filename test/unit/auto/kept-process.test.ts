import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { KeptProcess } from '../../../src/auto/kept-process.js'
import { serveOperator } from '../../../src/operator/server.js'
import { acquireControl, closeControl } from '../../../src/os/control-path.js'
import { Channel } from '../../../src/wire/channel.js'
import { ControlListener } from '../../../src/wire/control-listener.js'
import { Link } from '../../../src/wire/link.js'
import { until } from '../../processes/until.js'

type Answer = (status: { readonly pid: number }) => void

/** A control socket; the test answers the questions which process serves, in the order in which they come. */
async function askedService(): Promise<{ readonly control: string; readonly questions: Answer[] }> {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-kept-process-'))
  const control = await acquireControl(join(folder, 'control.sock'))
  if (control.role !== 'first') return expect.unreachable()
  const questions: Answer[] = []
  const status = () => new Promise<object>(resolve => questions.push(resolve))
  const listener = new ControlListener(control.listener)
  const links: Link[] = []
  const [upgrade, command] = [() => expect.unreachable(), () => expect.unreachable()]
  listener.start(fd => {
    const link = new Link(new Channel(fd))
    links.push(link)
    serveOperator(link, { status, upgrade, command })
  })
  onTestFinished(() => {
    listener.stop()
    for (const link of links) link.close()
    closeControl(control)
    rmSync(folder, { recursive: true })
  })
  return { control: control.path, questions }
}

it('a process that is replaced a second time is kept, whatever the answer is that it awaited since the first time', async () => {
  const { control, questions } = await askedService()
  const kept = new KeptProcess(control, true)
  onTestFinished(() => kept.stop())
  kept.markReplaced()
  const first = kept.decided
  await until('it asks which process serves', () => questions.length === 1 || null)
  kept.stop()
  kept.markReplaced()
  await until('it asks again', () => questions.length === 2 || null)
  // This process has served in between.
  questions[0]!({ pid: process.pid })
  await first
  expect(kept.keeps).toBe(true)
  questions[1]!({ pid: process.ppid })
  await kept.decided
  expect(kept.keeps).toBe(true)
})

it('a process that serves again while it asks which process serves is not kept', async () => {
  const { control, questions } = await askedService()
  const kept = new KeptProcess(control, true)
  kept.markReplaced()
  await until('it asks which process serves', () => questions.length === 1 || null)
  kept.stop()
  questions[0]!({ pid: process.ppid })
  await kept.decided
  expect(kept.keeps).toBe(false)
})

it('a main process is kept while the process that may serve does not answer', async () => {
  const { control, questions } = await askedService()
  const kept = new KeptProcess(control, true)
  onTestFinished(() => kept.stop())
  kept.markReplaced()
  await kept.decided
  expect([questions.length, kept.keeps]).toEqual([1, true])
})

it('a signal that arrives while this process is replaced once more ends the process that serves then', async () => {
  const { control, questions } = await askedService()
  const children = [spawn('sleep', ['60']), spawn('sleep', ['60'])] as const
  onTestFinished(() => children.forEach(child => void child.kill('SIGKILL')))
  const [first, second] = children.map(({ pid }) => ({ pid: pid! }))
  const kept = new KeptProcess(control, true)
  onTestFinished(() => kept.stop())
  kept.markReplaced()
  await until('it asks which process serves', () => questions.length === 1 || null)
  questions[0]!(first!)
  const passed = kept.passOn('SIGTERM')
  await until('it asks for the signal', () => questions.length === 2 || null)
  kept.stop()
  kept.markReplaced()
  await until('it asks again', () => questions.length === 3 || null)
  questions[1]!(first!)
  questions[2]!(second!)
  await until('it asks for the signal again', () => questions.length === 4 || null)
  questions[3]!(second!)
  await passed
  const [, signal] = await once(children[1], 'exit')
  expect([signal, children[0].exitCode, children[0].signalCode]).toEqual(['SIGTERM', null, null])
})
