import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished } from 'vitest'
import type { Operations } from '../../src/operator/requests.js'
import { serveOperator } from '../../src/operator/server.js'
import { acquireControl, closeControl } from '../../src/os/control-path.js'
import { Channel } from '../../src/wire/channel.js'
import { ControlListener } from '../../src/wire/control-listener.js'
import { Link } from '../../src/wire/link.js'

type Answer = (status: { readonly pid: number; readonly listeners?: readonly object[] }) => void

/** A control socket; the test answers the questions which process serves, in the order in which they come. `command`: answers commands. */
export async function askedService(
  command: () => Promise<Uint8Array> = () => expect.unreachable(),
): Promise<{ readonly control: string; readonly questions: Answer[] }> {
  const questions: Answer[] = []
  const status = () => new Promise<object>(resolve => questions.push(resolve))
  const control = await operatedService({ status, upgrade: () => expect.unreachable(), command })
  return { control, questions }
}

/** Returns the path of a control socket at which these operations answer. */
export async function operatedService(operations: Operations): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-kept-process-'))
  const control = await acquireControl(join(folder, 'control.sock'))
  if (control.role !== 'first') return expect.unreachable()
  const listener = new ControlListener(control.listener)
  const links: Link[] = []
  listener.start(fd => {
    const link = new Link(new Channel(fd))
    links.push(link)
    serveOperator(link, operations)
  })
  onTestFinished(() => {
    listener.stop()
    for (const link of links) link.close()
    closeControl(control)
    rmSync(folder, { recursive: true })
  })
  return control.path
}
