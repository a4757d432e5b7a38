import { describe, expect, it, onTestFinished } from 'vitest'
import { OperatorRequests } from '../../../src/member/hosting/operator-requests.js'
import type { Operations } from '../../../src/operator/requests.js'
import { RequestHandler, serveOperator } from '../../../src/operator/server.js'
import { Link, type WireBody } from '../../../src/wire/link.js'
import { StateLog } from '../../fixtures/state.js'
import { channelPair } from '../../processes/channel-pair.js'
import { until } from '../../processes/until.js'

/** Operations that note the orders which they begin. */
function noting(): { begun: string[]; operations: Operations } {
  const begun: string[] = []
  const operations: Operations = {
    status: () => ({}),
    command: async ({ name }) => {
      begun.push(name)
      return new Uint8Array(0)
    },
    upgrade: async (_order, _progress, cancel) => {
      begun.push('upgrade')
      cancel.addEventListener('abort', () => begun.push('cancelled'))
      return await new Promise(() => {})
    },
  }
  return { begun, operations }
}

/** A connection to a process that notes the orders which it begins. */
function connected() {
  const [ours, theirs] = channelPair()
  const { begun, operations } = noting()
  const served = new Link(ours)
  const end = serveOperator(served, operations)
  const seen = { answers: 0 }
  const link = new Link(theirs)
  onTestFinished(() => link.close())
  const count = () => void seen.answers++
  link.start({ message: count, broken: () => {}, end: () => {} })
  return { begun, end, link, seen, ended: served.channel.closed }
}

const STOP: WireBody = { command: { name: 'service.stop', request: 1 } }
const UPGRADE: WireBody = { upgradeRequest: {} }

describe('a process that reads an order', () => {
  it.each([STOP, UPGRADE])('does not begin it if its sender has closed the connection: %j', async order => {
    const { begun, link, ended } = connected()
    await link.send(order)
    link.close()
    await ended
    expect(begun).toEqual([])
  })

  it('answers all, however many come at once', async () => {
    const { begun, link, seen } = connected()
    for (let request = 1; request <= 100; request++) link.post({ command: { name: 'count', request } })
    await until('all answers have come', () => seen.answers === 100)
    expect(begun).toHaveLength(100)
  })

  it('disconnects its sender when the service has left it: at once, or when the answer is sent', async () => {
    for (const isAsked of [false, true]) {
      const [ours, theirs] = channelPair()
      let answer = () => {}
      const command = () =>
        new Promise<Uint8Array>(resolve => {
          answer = () => resolve(new Uint8Array(0))
        })
      const end = serveOperator(new Link(ours), { ...noting().operations, command })
      const link = new Link(theirs)
      const seen: string[] = []
      const note = (text: string) => () => void seen.push(text)
      link.start({ message: note('answer'), broken: () => {}, end: note('end') })
      onTestFinished(() => link.close())
      if (isAsked) {
        const idle = answer
        await link.send({ command: { name: 'service.rollback', request: 1 } })
        await until('the order has begun', () => answer !== idle)
      }
      end()
      await new Promise(resolve => setTimeout(resolve, 20))
      expect(seen).toEqual(isAsked ? [] : ['end'])
      answer()
      await until('the sender is disconnected', () => seen.includes('end'))
      expect(seen).toEqual(isAsked ? ['answer', 'end'] : ['end'])
    }
  })

  it('stays connected with the sender of an order to end, which may ask why it still lives', async () => {
    const { end, link, seen } = connected()
    await link.send(STOP)
    await until('the order is answered', () => seen.answers === 1)
    end()
    await link.send({ statusRequest: {} })
    await until('the status is answered', () => seen.answers === 2)
  })

  it('begins it if its sender waits for the answer', async () => {
    const { begun, link, seen } = connected()
    await link.send(UPGRADE)
    await link.send(STOP)
    await until('the answer has come', () => seen.answers === 1)
    expect(begun).toEqual(['upgrade', 'service.stop'])
  })

  it('cancels the upgrade that is under way also for a sender that has closed the connection', async () => {
    const { begun, link, ended } = connected()
    await link.send(UPGRADE)
    await until('the upgrade has begun', () => begun.length > 0)
    await link.send({ cancelUpgrade: {} })
    link.close()
    await ended
    expect(begun).toEqual(['upgrade', 'cancelled'])
  })
})

describe('a sender that disconnects', () => {
  /** An upgrade that waits for `begin`, as behind another one. */
  function waiting() {
    let begin = () => {}
    let signal = new AbortController().signal
    const none = () => expect.fail('this is not requested')
    const requests = new RequestHandler(
      {
        command: none,
        status: none,
        upgrade: async (_order, progress, cancel) => {
          signal = cancel
          await new Promise<void>((resolve, reject) => {
            begin = resolve
            cancel.addEventListener('abort', () => reject(cancel.reason))
          })
          progress({ phase: 'started', at: 1, pid: 2 })
          return { pid: 2, generation: 2 }
        },
      },
      () => {},
    )
    return { requests, begin: () => begin(), isCancelled: () => signal.aborted }
  }

  it('cancels its upgrade while that has not begun', async () => {
    const { requests, isCancelled } = waiting()
    const answer = requests.answer({ upgradeRequest: {} })
    requests.close('the operator has disconnected')
    expect(isCancelled()).toBe(true)
    expect(await answer).toMatchObject({ result: { ok: false, code: 'ERR_FDB_ABORTED' } })
  })

  it('leaves alone an upgrade that has begun', async () => {
    const { requests, begin, isCancelled } = waiting()
    const answer = requests.answer({ upgradeRequest: {} })
    begin()
    await Promise.resolve()
    requests.close('the operator has disconnected')
    expect(isCancelled()).toBe(false)
    expect(await answer).toMatchObject({ result: { ok: true, pid: 2 } })
  })
})

describe('a member of a daemon that was stopped', () => {
  /** A member that has read nothing yet, and its daemon. */
  function stopped() {
    const [ours, theirs] = channelPair()
    const [link, daemon] = [new Link(ours), new Link(theirs)]
    const { begun, operations } = noting()
    const requests = new OperatorRequests(operations, new StateLog(), () => link)
    ours.pause()
    link.start({ message: envelope => void requests.handle(envelope), broken: () => {}, end: () => {} })
    const answers: WireBody[] = []
    daemon.start({ message: envelope => void answers.push(envelope), broken: () => {}, end: () => {} })
    onTestFinished(() => {
      link.close()
      daemon.close()
    })
    return { answers, begun, daemon, link, goOn: () => ours.resume() }
  }

  it('begins a command', async () => {
    const { answers, begun, daemon, goOn } = stopped()
    await daemon.send(STOP)
    goOn()
    await until('the answer has come', () => answers.length > 0)
    expect(answers).toMatchObject([{ commandReply: { request: 1, ok: true } }])
    expect(begun).toEqual(['service.stop'])
  })

  it('does not begin a command that the daemon has cancelled, and begins the next one', async () => {
    const { answers, begun, daemon, goOn } = stopped()
    await daemon.send(STOP)
    await daemon.send({ command: { name: 'next', request: 2 } })
    await daemon.send({ cancelCommand: { request: 1 } })
    goOn()
    await until('both answers have come', () => answers.length > 1)
    expect(answers).toMatchObject([
      { commandReply: { request: 1, code: 'ERR_FDB_ABORTED' } },
      { commandReply: { request: 2, ok: true } },
    ])
    expect(begun).toEqual(['next'])
  })

  it('does not begin an upgrade that the daemon has cancelled', async () => {
    const { answers, begun, daemon, goOn } = stopped()
    await daemon.send({ upgradeRequest: { request: 1 } })
    await daemon.send({ result: { ok: false, code: 'ERR_FDB_ABORTED', message: 'cancelled' } })
    goOn()
    await until('the answer has come', () => answers.length > 0)
    expect(answers).toMatchObject([{ result: { request: 1, code: 'ERR_FDB_ABORTED' } }])
    expect(begun).toEqual([])
  })

  it.each([STOP, UPGRADE])(
    'does not begin an order of a daemon that has closed the connection: %j',
    async order => {
      const { begun, daemon, goOn, link } = stopped()
      await daemon.send(order)
      daemon.close()
      goOn()
      await until('the member has read all', () => !link.open)
      await new Promise(resolve => setImmediate(resolve))
      expect(begun).toEqual([])
    },
  )
})
