import { existsSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished, vi } from 'vitest'
import { startWorkers } from '../../../src/index.js'
import { RELOAD, REPLACE_WORKERS, ROLLBACK, SET_WORKERS } from '../../../src/operator/service-commands.js'
import { OperatorClient } from '../../../src/operator.js'
import { InOrder } from '../../fixtures/base.js'
import { untyped } from '../../fixtures/untyped.js'
import { stop } from '../../orders/operators.js'
import { until } from '../../processes/until.js'

it('workers that are to end before they have begun are not started', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-workers-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = join(folder, 'control.sock')
  const started = join(folder, 'started')
  const starting = startWorkers({
    service: 'shop',
    workers: 2,
    control,
    command: ['/bin/sh', '-c', `touch ${started}; sleep 600`],
    timeout: 2_000,
    signal: AbortSignal.abort(new Error('not wanted any more')),
  })
  await expect(starting).rejects.toThrow('not wanted any more')
  expect([existsSync(started), existsSync(control)]).toEqual([false, false])
})

it('workers that an operator stops while they start end without an error', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-workers-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = join(folder, 'control.sock')
  const started = join(folder, 'started')
  const starting = startWorkers({
    service: 'shop',
    workers: 1,
    control,
    command: ['/bin/sh', '-c', `touch ${started}; sleep 600`],
    timeout: 600_000,
  })
  await until('a worker starts', () => existsSync(started), 30_000)
  await stop(control, null)
  const workers = await starting
  await workers.closed
  expect([workers.serves, existsSync(control)]).toEqual([false, false])
})

it('no order that waits for its turn is begun if its sender has gone by then', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-workers-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = join(folder, 'control.sock')
  const started = join(folder, 'started')
  const turns = vi.spyOn(InOrder.prototype, 'run')
  onTestFinished(() => turns.mockRestore())
  // Behind the start, which does not end.
  const starting = startWorkers({
    service: 'shop',
    workers: 1,
    control,
    command: ['/bin/sh', '-c', `touch ${started}; sleep 600`],
    timeout: 600_000,
  })
  await until('it starts', () => existsSync(started), 30_000)
  const before = turns.mock.calls.length
  const sender = await OperatorClient.connect(control)
  for (const [name, body] of [
    [REPLACE_WORKERS, ''],
    [SET_WORKERS, '2'],
    [RELOAD, ''],
    [ROLLBACK, ''],
  ] as const)
    sender.command(name, body).catch(() => {})
  await until('all wait', () => turns.mock.calls.length === before + 4)
  sender.close()
  const hasHeard = () => turns.mock.calls.slice(before).map(([, gone]) => gone?.aborted)
  await until(
    'all have heard it',
    () => hasHeard().every(Boolean),
    10_000,
    () => hasHeard(),
  )
  await stop(control, null)
  await (await starting).closed
})

it('workers with a misspelt option are not started', async () => {
  const misspelt = startWorkers(untyped({ service: 'shop', workers: 1, restartDelays: 1 }))
  await expect(misspelt).rejects.toMatchObject({
    code: 'ERR_FDB_OPTION',
    message: expect.stringContaining('restartDelays'),
  })
})

it('methods of the main process refuse arguments that are wrong, and do nothing', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-workers-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const member = `import { join } from 'fd-broker'; await (await join({ service: 'shop' })).ready()`
  const workers = await startWorkers({
    service: 'shop',
    workers: 1,
    control: join(folder, 'control.sock'),
    command: [process.execPath, '--input-type=module', '-e', member],
  })
  const calls = [
    ['close', { timeout: 'soon' }, 'timeout'],
    ['close', { timeout: -1 }, 'timeout'],
    ['close', { timeOut: 1 }, 'timeOut'],
    ['signal', 'NOSIG', 'signal'],
    ['signal', 9, 'signal'],
    ['onReload', 2, 'count'],
    ['set', 'many', 'workers'],
    ['upgrade', { timeOut: 1 }, 'timeOut'],
  ] as const
  try {
    for (const [method, given, named] of calls)
      await expect(async () => await workers[method](untyped(given))).rejects.toMatchObject({
        code: 'ERR_FDB_OPTION',
        message: expect.stringContaining(named),
      })
    expect(workers.report).toMatchObject({ count: 1, all: [{ phase: 'serving' }] })
  } finally {
    await workers.close({ timeout: 0 })
  }
})
