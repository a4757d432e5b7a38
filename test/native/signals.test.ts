import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { constants } from 'node:os'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { addonFile } from '../../src/kernel/addon.js'
import { native } from '../../src/kernel/native.js'
import { thrown } from './support.js'

const script = fileURLToPath(new URL('children/held-signals.mjs', import.meta.url))
const USR2 = 1 << (constants.signals.SIGUSR2 - 1)

describe('holdSignals', () => {
  it('keeps a signal for the next image: pending, until that releases it', async () => {
    const { stdout } = await promisify(execFile)(process.execPath, [script, 'first'])
    expect(stdout.trim().split('\n')).toEqual([
      `blocked ${USR2}`,
      'blocked in a child 0',
      'blocked 0',
      'the second image has got it',
    ])
  })

  it('changes nothing for a program that has only loaded the addon, whatever its environment says', async () => {
    const env = { ...process.env, FD_BROKER_HELD_SIGNALS: `${USR2}` }
    const text = "setImmediate(() => console.log(require('fs').readFileSync('/proc/self/status', 'utf8')))"
    const load = `process.dlopen({ exports: {} }, ${JSON.stringify(addonFile())}); ${text}`
    const { stdout } = await promisify(execFile)(process.execPath, ['-e', load], { env })
    expect(stdout).toMatch(/^SigBlk:\s0+$/m)
  })

  it('gives a signal to the handler of this image when that stays', async () => {
    let got = 0
    const handler = () => {
      got++
    }
    process.on('SIGUSR2', handler)
    try {
      native.holdSignals(USR2)
      expect(thrown(() => native.holdSignals(USR2)).message).toMatch(/held already/)
      process.kill(process.pid, 'SIGUSR2')
      // The loop has asked for events once between two immediates.
      for (let turn = 0; turn < 3; turn++) await new Promise(resolve => setImmediate(resolve))
      expect(got).toBe(0)
      const came = once(process, 'SIGUSR2')
      native.releaseSignals()
      await came
      expect(got).toBe(1)
    } finally {
      process.off('SIGUSR2', handler)
    }
  })

  it('refuses what is no set of signals', () => {
    const refused = (signals: unknown) => thrown(() => native.holdSignals(signals as number)).name
    expect([refused(-1), refused(2 ** 31), refused('USR2')]).toEqual([
      'RangeError',
      'RangeError',
      'TypeError',
    ])
  })
})

describe('watchSignal', () => {
  const watched = fileURLToPath(new URL('children/watched-signal.mjs', import.meta.url))

  it('gets a signal before the listeners, and leaves the program its own and the default action', async () => {
    const failed = await promisify(execFile)(process.execPath, [watched]).catch(error => error)
    expect(failed.signal).toBe('SIGTERM')
    expect(failed.stdout.trim().split('\n')).toEqual([
      'watched its own, 1 listen',
      'once, 0 left',
      'watched of another, 0 listen',
      'as any uncaught one',
      'watched its own, 1 listen',
      'on',
      'on',
    ])
  })

  it('tells of a signal that the loop has not read yet, also after close(), but not one whose callback runs', async () => {
    const turns = async () => {
      for (let turn = 0; turn < 3; turn++) await new Promise(resolve => setImmediate(resolve))
    }
    const { SIGUSR2 } = constants.signals
    const counts: number[] = []
    const watch = native.watchSignal(SIGUSR2, () => counts.push(watch.undelivered()))
    expect(watch.undelivered()).toBe(0)
    process.kill(process.pid, 'SIGUSR2')
    expect(watch.undelivered()).toBe(1)
    await turns()
    expect(counts).toEqual([0])
    process.kill(process.pid, 'SIGUSR2')
    watch.close()
    expect(watch.undelivered()).toBe(1)
    await turns()
    expect([watch.undelivered(), ...counts]).toEqual([0, 0])
  })

  it('keeps no process alive', async () => {
    const text = `const native = { exports: {} }; process.dlopen(native, ${JSON.stringify(addonFile())}); native.exports.watchSignal(15, () => {})`
    await promisify(execFile)(process.execPath, ['-e', text])
  })

  it('refuses what is no signal, and no function', () => {
    const refused = (signal: unknown, callback: unknown = () => {}) =>
      thrown(() => native.watchSignal(signal as number, callback as () => void))
    expect([refused(0).name, refused(32).name, refused('SIGTERM').name, refused(15, null).name]).toEqual([
      'RangeError',
      'RangeError',
      'TypeError',
      'TypeError',
    ])
    // The kernel lets no process handle it.
    expect(refused(constants.signals.SIGKILL)).toMatchObject({ code: 'EINVAL', syscall: 'signal' })
  })
})
