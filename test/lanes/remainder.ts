import { randomUUID } from 'node:crypto'
import { readdirSync, readlinkSync, rmSync } from 'node:fs'
import { join, relative } from 'node:path'
import { afterAll, beforeAll, expect } from 'vitest'
import { collectGarbage } from '../processes/garbage.js'
import { children, entriesOf, OF_FILE, processesWith, temporaryFolder } from './remains.js'

/**
 * A test file leaves nothing: no descriptor of its process, no process, no entry of the temporary folder. The runner gives the file
 * a process of its own and imports this module first, so that its last hook runs behind every hook of the file.
 */
const FILE = relative(join(import.meta.dirname, '..'), expect.getState().testPath ?? '')

/** The end-to-end tests start processes that end by their scene, with their folder. */
const GUARDED = /^(unit|property|native)\//

/** A limit, not a pause: time for what closes by itself, such as a socket whose peer has closed. */
const MOST_MS = 30_000

/** Descriptors that Node opens when it first needs them: an event loop's own, the source of random bytes, no output. */
const OF_NODE = /^(anon_inode:\[(eventpoll|eventfd|io_uring)\]|\/dev\/(u?random|null))$/

if (GUARDED.test(FILE)) guard()

function guard(): void {
  const mark = `FDB_TEST_FILE=${randomUUID()}`
  const folder = temporaryFolder(OF_FILE)
  process.env.FDB_TEST_FILE = mark.split('=')[1]
  process.env.TMPDIR = folder
  let before: ReadonlySet<string>

  const remainder = () => [
    ...descriptors()
      .filter(one => !before.has(one))
      .map(one => `the descriptor ${one}`),
    ...[...children(), ...processesWith(mark)].map(one => `the process ${one}`),
    ...entriesOf(folder).map(name => `${name} in the temporary folder`),
  ]

  beforeAll(() => {
    before = new Set(descriptors())
  })

  afterAll(async () => {
    try {
      const end = performance.now() + MOST_MS
      let left = remainder()
      while (left.length > 0 && performance.now() < end) {
        // Whether a descriptor without an owner is closed by now must not depend on the collector's moment.
        collectGarbage()
        await new Promise(resolve => setTimeout(resolve, 20))
        left = remainder()
      }
      if (left.length > 0) throw new Error(`test/${FILE} leaves:\n${left.join('\n')}`)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }, MOST_MS * 4)
}

/** Number and target of each. */
function descriptors(): string[] {
  return readdirSync('/proc/self/fd').flatMap(fd => {
    const target = targetOf(fd)
    return target === null || OF_NODE.test(target) ? [] : [`${fd} ${target}`]
  })
}

/** Null of one that is closed, such as that which listed the others. */
function targetOf(fd: string): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return null
  }
}
