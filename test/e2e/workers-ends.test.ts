import { describe, expect, it } from 'vitest'
import { ask } from '../processes/client.js'
import { GatedWorkers } from '../processes/gated-workers.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { socketsAt } from '../processes/sockets.js'
import { until } from '../processes/until.js'
import { mainStatus, mainWhere } from '../processes/workers.js'

/** Starts the next main process. Resolves with its pid when it serves, and with how it ends. */
async function nextOf({ command, control, pid: before, sandbox }: GatedWorkers) {
  const ended = sandbox.runCommand(command)
  const { pid } = await mainWhere(control, 'the next main process serves', ({ pid }) => pid !== before)
  return { pid, ended }
}

describe('TERM to a main process that has taken over and still starts a worker', () => {
  it('lets the other worker answer its request, and is no error', async () => {
    const main = await GatedWorkers.start()
    const held = await main.hold()
    const [other] = (await main.serving()).filter(pid => pid !== held.pid)
    main.shut()
    signalPid(main.pid, 'SIGKILL')
    signalPid(other!, 'SIGKILL')
    const next = await nextOf(main)
    await mainWhere(main.control, 'one worker is back, and one starts', ({ workers: { all } }) => {
      const phases = new Set(all.map(({ phase }) => phase))
      return phases.has('serving') && phases.has('starting')
    })
    signalPid(next.pid, 'SIGTERM')
    await until('no worker accepts', () =>
      ask(main.url).answer.then(
        () => false,
        () => true,
      ),
    )
    expect(hasEnded(held.pid)).toBe(false)
    held.end()
    expect(await next.ended).toMatchObject({ code: 0 })
    expect(hasEnded(held.pid)).toBe(true)
  })

  it('also ends a worker that reconnects only now', async () => {
    const main = await GatedWorkers.start()
    const [first, second] = await main.serving()
    // The second one ends alone; the first one would wait for it.
    signalPid(first, 'SIGSTOP')
    signalPid(main.pid, 'SIGKILL')
    const next = await nextOf(main)
    signalPid(next.pid, 'SIGTERM')
    await until('the second worker has ended', () => hasEnded(second))
    signalPid(first, 'SIGCONT')
    await until('the first worker has ended', () => hasEnded(first), 30_000)
    expect(await next.ended).toMatchObject({ code: 0 })
  })
})

it('a second main process that gets INT while the first one does not answer ends, and the first one serves on', async () => {
  const main = await GatedWorkers.start()
  const { command, control, sandbox } = main
  const serving = await main.serving()
  signalPid(main.pid, 'SIGSTOP')
  const before = socketsAt(control)
  const second = await sandbox.launch(command)
  await until('the second one waits', () => socketsAt(control) > before)
  signalPid(second, 'SIGINT')
  await until('the second one has ended', () => hasEnded(second), 30_000)
  expect(sandbox.output).toContain('ended by SIGINT before it listened')
  signalPid(main.pid, 'SIGCONT')
  expect(await mainStatus(control)).toMatchObject({ pid: main.pid })
  expect(await main.serving()).toEqual(serving)
})
