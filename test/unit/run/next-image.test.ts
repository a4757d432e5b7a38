import { afterEach, expect, it, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { ImageReplacement, RELEASES_SIGNALS, replaceImage } from '../../fixtures/run.js'
import { untyped } from '../../fixtures/untyped.js'

const memory = vi.hoisted(() => ({ isLeft: true }))
const noDescriptor = vi.hoisted(() => () => Object.assign(new Error('too many'), { code: 'EMFILE' }))
vi.mock(import('../../../src/kernel/index.js'), async original => {
  const own = await original()
  return {
    ...own,
    memoryFile: (...args) => {
      if (!memory.isLeft) throw noDescriptor()
      return own.memoryFile(...args)
    },
    executeInstead: () => {
      throw Object.assign(new Error('no memory'), { code: 'ENOMEM' })
    },
  }
})

afterEach(() => {
  memory.isLeft = true
  vi.restoreAllMocks()
})

it.each([
  ['the state', 'ERR_FDB_NO_DESCRIPTORS', false],
  ['the next release', 'ERR_FDB_SPAWN', true],
])('a supervisor without a free descriptor for %s names the limit', async (_what, code, hasMemory) => {
  memory.isLeft = hasMemory
  const start = () => {
    throw noDescriptor()
  }
  const parts = [untyped({ start }), untyped({ release() {}, renew() {} }), SILENT] as const
  const replaced = replaceImage(
    () => untyped({ replaced: 1 }),
    async () => {},
    ...untyped<[never, never, typeof SILENT]>(parts),
  )
  await expect(replaced).rejects.toMatchObject({ code, message: expect.stringContaining('LimitNOFILE=') })
})

it('a supervisor that could not execute its next release has its guardian again', async () => {
  const guard: string[] = []
  const deathGuard = { release: () => guard.push('released'), renew: () => guard.push('renewed') }
  // The release is fit: only the call of the kernel fails.
  const children = {
    start: (_start: unknown, ended: (code: number) => void) => {
      queueMicrotask(() => ended(RELEASES_SIGNALS))
      return 1
    },
  }
  const replaced = replaceImage(
    () => untyped({ replaced: 1 }),
    async () => {},
    untyped(children),
    untyped(deathGuard),
    SILENT,
  )
  await expect(replaced).rejects.toMatchObject({
    code: 'ERR_FDB_SPAWN',
    message: expect.stringMatching(/ENOMEM.*the supervisor keeps running unchanged/),
  })
  expect(guard).toEqual(['released', 'renewed'])
})

it('an order to replace the supervisor tries again after one that has failed, and joins one that is under way', async () => {
  const tries: ((code: number) => void)[] = []
  const children = {
    start: (_start: unknown, ended: (code: number) => void) => {
      tries.push(ended)
      return tries.length
    },
  }
  const replacement = new ImageReplacement(() => untyped({ replaced: 1 }), {
    hooks: { ended: async () => {} },
    children: untyped(children),
    deathGuard: untyped({ release() {}, renew() {} }),
    logger: SILENT,
  })
  for (const code of [7, 8, 9]) {
    const orders = [replacement.start(), replacement.start()]
    const outcomes = Promise.allSettled(orders)
    // With and without held signals.
    for (let n = 0; n < 2; n++) {
      await vi.waitUntil(() => tries.length > 0)
      expect(tries).toHaveLength(1)
      tries.pop()!(code)
    }
    const failed = { status: 'rejected', reason: { code: 'ERR_FDB_SUCCESSOR_EXITED', details: { code } } }
    expect(await outcomes).toMatchObject([failed, failed])
  }
})
