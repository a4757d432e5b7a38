import { describe, expect, it } from 'vitest'
import { Pending } from '../../../src/wire/pending.js'

const turn = () => new Promise(resolve => setImmediate(resolve))

describe('Pending', () => {
  it('settles by the first outcome, and tells the rest that it was too late', async () => {
    const ended: string[] = []
    const pending = new Pending<number>({ onSettled: () => ended.push('over') })
    expect(pending.settled).toBe(false)
    expect(pending.resolve(1)).toBe(true)
    expect(pending.resolve(2)).toBe(false)
    expect(pending.reject(new Error('late'))).toBe(false)
    expect(await pending.answer).toBe(1)
    expect([pending.settled, ended]).toEqual([true, ['over']])
  })

  it('counts the last limit alone, and none once it is settled', async () => {
    const pending = new Pending<string>()
    pending.limit(1, () => pending.resolve('first'))
    pending.limit(20, () => pending.resolve('second'))
    expect(await pending.answer).toBe('second')
    let late = false
    pending.limit(1, () => {
      late = true
    })
    await new Promise(resolve => setTimeout(resolve, 10))
    expect(late).toBe(false)
  })

  it('has a limit longer than a timer of Node can wait', async () => {
    const pending = new Pending<string>()
    pending.limit(2 ** 40, () => pending.resolve('late'), { unref: true })
    await new Promise(resolve => setTimeout(resolve, 10))
    expect(pending.settled).toBe(false)
    pending.resolve('answered')
    expect(await pending.answer).toBe('answered')
  })

  it('rejects with the reason of its signal, before or later, and then hears it no more', async () => {
    const reason = new Error('stop')
    await expect(new Pending({ signal: AbortSignal.abort(reason) }).answer).rejects.toBe(reason)
    const abort = new AbortController()
    const pending = new Pending<number>({ signal: abort.signal })
    abort.abort(reason)
    await expect(pending.answer).rejects.toBe(reason)
    const answered = new Pending<number>({ signal: new AbortController().signal })
    answered.resolve(1)
    expect(await answered.answer).toBe(1)
  })

  it('has no unhandled rejection where nobody waits', async () => {
    new Pending().reject(new Error('nobody hears it'))
    await turn()
  })
})
