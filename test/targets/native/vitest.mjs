// The part of vitest that the tests of test/native use, over Node's own test runner: on a platform for which vitest's bundler is not
// installed. FD_BROKER_TARGET_LACKS (a regular expression) names tests of what the machine lacks; they are skipped.
import * as runner from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { format } from 'node:util'
import { chai, JestAsymmetricMatchers, JestChaiExpect, JestExtend } from '@vitest/expect'

for (const matchers of [JestExtend, JestChaiExpect, JestAsymmetricMatchers]) chai.use(matchers)

export const { afterEach, beforeEach, describe } = runner
export const afterAll = runner.after
export const beforeAll = runner.before
export const { expect } = chai

const lacks = process.env.FD_BROKER_TARGET_LACKS
const skipped = lacks ? new RegExp(lacks) : undefined

/** Functions that the running test registered for its end; tests of one file run one after the other. */
let atItsEnd = []

export function onTestFinished(done) {
  atItsEnd.push(done)
}

export function it(name, ...rest) {
  const body = rest.find(part => typeof part === 'function')
  runner.it(name, { skip: skipped?.test(name) ?? false }, test => finished(() => body({ skip: leave(test) })))
}

async function finished(body) {
  atItsEnd = []
  try {
    await body()
  } catch (error) {
    if (!(error instanceof Left)) throw error
  } finally {
    for (const done of atItsEnd.reverse()) await done()
  }
}

/** Ends a test that is left out, as `skip()` of vitest does. */
class Left extends Error {}

function leave(test) {
  return note => {
    test.skip(note)
    throw new Left(note)
  }
}

it.each = rows => (name, body) => {
  for (const row of rows) {
    const args = Array.isArray(row) ? row : [row]
    const used = name.split('%').length - 1
    it(format(name, ...args.slice(0, used)), () => body(...args))
  }
}

/** Asks again until the matcher, or its opposite behind `not`, agrees, for a second. */
expect.poll = read =>
  asked(read, found => expect(found), {
    get not() {
      return asked(read, found => expect(found).not)
    },
  })

function asked(read, wrapped, more = {}) {
  return new Proxy(more, {
    get: (target, matcher) => {
      if (matcher in target) return target[matcher]
      return async (...wanted) => {
        for (const end = Date.now() + 1_000; ; await sleep(20)) {
          const found = await read()
          try {
            return wrapped(found)[matcher](...wanted)
          } catch (error) {
            if (Date.now() > end) throw error
          }
        }
      }
    },
  })
}
