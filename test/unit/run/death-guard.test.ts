import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished } from 'vitest'
import { perLane } from '../../lanes/lane.js'
import { bundled } from '../../processes/bundled.js'
import { until } from '../../processes/until.js'

/** Orders to a guardian, and the marks of the processes that it kills after them. */
const ORDERS: readonly (readonly [orders: readonly string[], ended: readonly string[]])[] = [
  [
    ['add a', 'release', 'renew', 'add b', 'release', 'renew'],
    ['a', 'b'],
  ],
  [['add a', 'release', 'renew', 'release'], []],
  [
    ['add a', 'add b'],
    ['a', 'b'],
  ],
  [
    ['add a', 'add b', 'release', 'renew'],
    ['a', 'b'],
  ],
  [
    ['add a', 'release', 'renew', 'add b'],
    ['a', 'b'],
  ],
]
const MARK = 'FDB_TEST_GUARDED'

function marked(name: string): ChildProcess {
  const env = { ...process.env, [MARK]: `${process.pid}.${name}` }
  const child = spawn('sleep', ['600'], { env, stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  return child
}

/** Starts a process that gives its guardian these orders, and kills it. */
async function killedAfter(orders: readonly string[]): Promise<void> {
  const args = orders.map(order => order.replace('add ', `add:${MARK}=${process.pid}.`))
  const { file, env } = bundled('guarding.ts')
  const guarding = spawn(process.execPath, [file, ...args], { env, stdio: ['ignore', 'pipe', 'inherit'] })
  onTestFinished(() => void guarding.kill('SIGKILL'))
  await once(guarding.stdout, 'data')
  const killed = once(guarding, 'exit')
  guarding.kill('SIGKILL')
  await killed
}

it.each(perLane(ORDERS.slice(0, 2), ORDERS))(
  'if a supervisor is killed after %j, so are the processes of the versions %j, and no other',
  async (orders, ended) => {
    const all = ['a', 'b', 'c'].map(name => ({ name, child: marked(name) }))
    const ends = new Map(all.map(({ name, child }) => [name, once(child, 'exit')]))
    await killedAfter(orders)
    const isEnded = (name: string) => all.some(each => each.name === name && each.child.signalCode !== null)
    await until('they have ended', () => ended.every(isEnded), 60_000)
    // The guardian kills all in one pass: one that it spares is ended here.
    await new Promise(resolve => setTimeout(resolve, 100))
    for (const { child } of all) child.kill('SIGTERM')
    await Promise.all(ends.values())
    expect(all.filter(({ child }) => child.signalCode === 'SIGKILL').map(({ name }) => name)).toEqual(ended)
  },
)
