import { expect, it, onTestFinished, vi } from 'vitest'
import { WaitingRequests } from '../../../src/socket-io/waiting-requests.js'

/** Reports whether a request for the session waits. */
function waits(requests: WaitingRequests, sid: string): boolean {
  let verified = false
  const request = { _query: { sid }, method: 'POST', res: null, socket: { destroyed: false } }
  requests.add(
    request as never,
    false,
    () => {
      verified = true
    },
    () => {},
  )
  return !verified
}

it('remember the first requests of the last sessions only, and none of a name that no session has', () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  onTestFinished(() => void vi.useRealTimers())
  const requests = new WaitingRequests()
  requests.giveUp('lost')
  expect(waits(requests, 'lost')).toBe(false)
  expect(waits(requests, 'x'.repeat(2_000))).toBe(false)
  for (let n = 0; n < 10_000; n++) waits(requests, `${n}`)
  // The request that is forgotten begins its wait again.
  expect(waits(requests, 'lost')).toBe(true)
})
