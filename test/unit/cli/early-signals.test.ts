import { expect, it, onTestFinished, vi } from 'vitest'

const SIGNALS = ['SIGUSR1', 'SIGHUP', 'SIGUSR2'] as const

/** Signals for which the command line has a handler before anything else of it is loaded. */
async function earlyOf(command: string): Promise<string[]> {
  const { argv } = process
  const before = SIGNALS.map(signal => process.listeners(signal))
  onTestFinished(() => {
    process.argv = argv
    for (const [i, signal] of SIGNALS.entries())
      for (const listener of process.listeners(signal))
        if (!before[i]!.includes(listener)) process.off(signal, listener)
  })
  process.argv = ['node', 'fd-broker', ...command.split(' ')]
  vi.resetModules()
  await import('../../../src/cli/early-signals.js')
  return SIGNALS.filter((signal, i) => process.listenerCount(signal) > before[i]!.length)
}

it.each([
  'proxy --config edge.yaml',
  'serve',
  'run -- node server.mjs',
  'workers start --service shop -- node server.mjs',
])('a signal for what is to serve does not end it while it starts: fd-broker %s', async command => {
  expect(await earlyOf(command)).toEqual(SIGNALS)
})

it.each(['status', 'workers restart', 'start'])(
  'a signal ends other commands: fd-broker %s',
  async command => {
    expect(await earlyOf(command)).toEqual(['SIGUSR1'])
  },
)
