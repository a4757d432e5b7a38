import { setImmediate as turn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { closeAll, type Leak, OwnedFd, onLeak } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { collectGarbage } from '../../processes/garbage.js'

function memory(label = 'memory'): OwnedFd {
  return OwnedFd.own(native.memfd(label), label)
}

function isOpen(raw: number): boolean {
  return native.inspect([raw])[0]!.error === undefined
}

describe('OwnedFd', () => {
  it('closes once, however often it is asked', () => {
    const fd = memory()
    const { raw } = fd
    expect(fd.closed).toBe(false)
    fd.close()
    const reused = memory()
    expect(reused.raw).toBe(raw)
    fd.close()
    fd[Symbol.dispose]()
    expect(isOpen(raw)).toBe(true)
    expect(fd.closed).toBe(true)
    reused.close()
  })

  it('closes with the last of its owners if shared, and is given away as a duplicate before', () => {
    const first = memory()
    const { raw } = first
    const [second, third] = [first.share(), first.share()]
    expect([second.raw, third.raw]).toEqual([raw, raw])
    const before = native.openCount()
    first.close()
    first.close()
    expect([isOpen(raw), first.closed, second.closed]).toEqual([true, true, false])
    const given = second.release()
    expect(given).not.toBe(raw)
    closeAll([second, third, third])
    expect([isOpen(raw), isOpen(given)]).toEqual([false, true])
    expect(native.openCount()).toBe(before - 1)
    OwnedFd.own(given, 'given').close()
    const [fourth] = [memory()]
    const another = fourth.share().release()
    expect(another).not.toBe(fourth.raw)
    native.close(another)
    expect(isOpen(fourth.raw)).toBe(true)
    fourth.close()
  })

  it('closes at the end of a using block', () => {
    let raw: number
    {
      using fd = memory()
      raw = fd.raw
      expect(isOpen(raw)).toBe(true)
    }
    expect(isOpen(raw)).toBe(false)
  })

  it('refuses to be used after close, with its label in the message', () => {
    const fd = memory('the table')
    fd.close()
    for (const use of [() => fd.raw, () => fd.dup(), () => fd.release()]) {
      try {
        use()
        expect.unreachable()
      } catch (error) {
        expect(FdbError.is(error)).toBe(true)
        expect(error).toMatchObject({
          code: 'ERR_FDB_FD_CLOSED',
          message: expect.stringContaining('the table'),
        })
      }
    }
  })

  it('dups into an owner of its own', () => {
    const fd = memory()
    const dup = fd.dup()
    expect(dup.raw).not.toBe(fd.raw)
    expect(dup.label).toBe('memory')
    using second = fd.dup('second')
    expect(second.label).toBe('second')
    fd.close()
    expect(isOpen(dup.raw)).toBe(true)
    dup.close()
  })

  it('gives its descriptor away: neither it nor the addon closes it any more', () => {
    const start = native.openCount()
    const fd = memory()
    const raw = fd.release()
    expect(fd.closed).toBe(true)
    expect(native.openCount()).toBe(start)
    fd.close()
    expect(isOpen(raw)).toBe(true)
    native.close(raw)
  })

  it('closes many in one go, skipping closed ones, the rest also when one fails', () => {
    const fds = [memory(), memory(), memory()]
    const raws = fds.map(fd => fd.raw)
    fds[0]!.close()
    native.close(raws[1]!)
    expect(() => closeAll(fds)).toThrow(expect.objectContaining({ code: 'EBADF' }))
    expect(fds.every(fd => fd.closed)).toBe(true)
    expect(isOpen(raws[2]!)).toBe(false)
    closeAll(fds)
    closeAll([])
  })
})

describe('onLeak', () => {
  it('reports and closes what was collected unclosed, and nothing else', async () => {
    const leaks: Leak[] = []
    const stop = onLeak(leak => leaks.push(leak))
    const kept = memory('kept')
    const raw = (() => {
      memory('closed').close()
      native.close(memory('released').release())
      return memory('leaked').raw
    })()
    const deadline = Date.now() + 5000
    while (leaks.length === 0 && Date.now() < deadline) {
      collectGarbage()
      await turn()
    }
    stop()
    expect(leaks).toEqual([{ fd: raw, label: 'leaked' }])
    expect(isOpen(raw)).toBe(false)
    expect(isOpen(kept.raw)).toBe(true)
    kept.close()
  })
})
