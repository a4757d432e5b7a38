import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { Placeholder } from '../../../src/auto/placeholder.js'
import { serveOperator } from '../../../src/operator/server.js'
import { acquireControl, closeControl } from '../../../src/os/control-path.js'
import { Channel } from '../../../src/wire/channel.js'
import { ControlListener } from '../../../src/wire/control-listener.js'
import { Link } from '../../../src/wire/link.js'
import { until } from '../../processes/until.js'

type Answer = (status: { readonly pid: number }) => void

/** A control socket; the test answers the questions which process serves, in the order in which they come. */
async function askedService(): Promise<{ readonly control: string; readonly questions: Answer[] }> {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-placeholder-'))
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
  const placeholder = new Placeholder(control, true)
  onTestFinished(() => placeholder.stop())
  placeholder.markReplaced()
  const first = placeholder.decided
  await until('it asks which process serves', () => questions.length === 1 || null)
  placeholder.stop()
  placeholder.markReplaced()
  await until('it asks again', () => questions.length === 2 || null)
  // This process has served in between.
  questions[0]!({ pid: process.pid })
  await first
  expect(placeholder.keeps).toBe(true)
  questions[1]!({ pid: process.ppid })
  await placeholder.decided
  expect(placeholder.keeps).toBe(true)
})

it('a process that serves again while it asks which process serves is not kept', async () => {
  const { control, questions } = await askedService()
  const placeholder = new Placeholder(control, true)
  placeholder.markReplaced()
  await until('it asks which process serves', () => questions.length === 1 || null)
  placeholder.stop()
  questions[0]!({ pid: process.ppid })
  await placeholder.decided
  expect(placeholder.keeps).toBe(false)
})

it('a main process is kept while the process that may serve does not answer', async () => {
  const { control, questions } = await askedService()
  const placeholder = new Placeholder(control, true)
  onTestFinished(() => placeholder.stop())
  placeholder.markReplaced()
  await placeholder.decided
  expect([questions.length, placeholder.keeps]).toEqual([1, true])
})
