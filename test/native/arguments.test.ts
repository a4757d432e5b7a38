import { describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import fc from '../lanes/generated.js'
import { openDescriptors } from './support.js'

/* Numbers that are no descriptor and no process: a random small one could close the test runner's own. */
const number = fc.oneof(
  fc.double().filter(value => !(value >= 0 && value < 5_000_000)),
  fc.integer({ min: 5_000_000 }),
  fc.integer({ max: -1 }),
  fc.constantFrom(Number.NaN, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, 5_000_000.5),
)
const text = fc.oneof(fc.constantFrom('', '\0', 'x'.repeat(300), '☃'.repeat(60)), fc.string())
const bytes = fc.oneof(
  fc.uint8Array({ maxLength: 16 }),
  fc.constantFrom(
    new Float64Array(2),
    new ArrayBuffer(8),
    new DataView(new ArrayBuffer(8)),
    new Uint8Array(0),
  ),
)
const anything = fc.oneof(
  { weight: 4, arbitrary: number },
  { weight: 2, arbitrary: text },
  { weight: 3, arbitrary: bytes },
  fc.array(fc.oneof(number, text, fc.constant(undefined)), { maxLength: 300 }),
  fc.constantFrom(null, undefined, true, Symbol('s'), 10n, {}, () => {}),
  fc.record({ kind: text, host: text, port: number, mode: number, backlog: number }, { requiredKeys: [] }),
)

/** Calls that open something for a text argument alone, or none, would leave files or memory behind: not with random texts. */
const opening = new Set(['memfd', 'openLockFile', 'openPipe', 'socketPair', 'createEpoll', 'openCount'])
/** Functions that concern the whole process, whatever their arguments are. */
const without = new Set([
  'adoptOrphans',
  'closeStarter',
  'endedChild',
  'holdSignals',
  'openStarter',
  'releaseSignals',
  'startsApart',
])
const names = (Object.getOwnPropertyNames(native) as Array<keyof typeof native>).filter(
  name => !opening.has(name) && !without.has(name),
)

describe('wrong arguments', () => {
  it.each(names)('%s throws an Error, and neither crashes nor leaks', name => {
    const before = openDescriptors()
    fc.assert(
      fc.property(fc.array(anything, { maxLength: 6 }), args => {
        try {
          ;(native[name] as (...all: unknown[]) => unknown)(...args)
        } catch (error) {
          expect(error).toBeInstanceOf(Error)
          expect((error as { code?: string }).code).toMatch(/^E[A-Z_0-9]+$/)
          return
        }
        // Calls that may succeed: empty lists, numbers without an owner or of no child of ours, and room above the limit or for no key.
        expect([
          'addSealsAside',
          'beginTls',
          'closeAside',
          'closeMany',
          'closingAside',
          'createKeys',
          'firstNotStream',
          'hangups',
          'inspect',
          'madeTls',
          'makeRoom',
          'reapChild',
          'release',
          'stopReceiving',
          'threadCpuMs',
        ]).toContain(name)
      }),
      { seed: 7, numRuns: 300 },
    )
    expect(openDescriptors()).toBe(before)
  })

  it('does not believe an array whose getters change the world', () => {
    const buffer = new Uint8Array(64)
    const [a, b] = native.socketPair()
    const fds = [a, a]
    Object.defineProperty(fds, 1, {
      get() {
        structuredClone(buffer, { transfer: [buffer.buffer] })
        return a
      },
    })
    expect(() => native.sendMessage(a, buffer, 0, 64, fds)).toThrow(RangeError)
    Object.defineProperty(fds, 0, {
      get() {
        throw new Error('from the getter')
      },
    })
    expect(() => native.inspect(fds)).toThrow('from the getter')
    expect(() =>
      native.bindSocket(
        new Proxy({} as never, {
          get: () => {
            throw new Error('trap')
          },
        }),
      ),
    ).toThrow('trap')
    native.closeMany([a, b])
  })
})
