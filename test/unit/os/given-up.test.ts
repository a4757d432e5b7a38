import { expect, it } from 'vitest'
import { refuseWithout } from '../../../src/operator/requests.js'
import { checkGivenUp, givenUp, givingUp, means, shownAddress } from '../../../src/os/given-up.js'

const METRICS = { name: 'tcp://127.0.0.1:9100', address: 'tcp://127.0.0.1:9100' }
const CHOSEN = { name: 'tcp://[::]:0 (2)', address: 'tcp://[::]:40123' }
// The kernel knows the path under which the socket was bound.
const PATH = { name: 'unix:/run/a,b.sock', address: 'unix:/run/a,b.sock.4711' }

it.each([
  [METRICS, ['tcp://127.0.0.1:9100', '127.0.0.1:9100', '9100'], ['100', '0.0.0.0:9100', '', ':9100', 'tcp']],
  [CHOSEN, ['tcp://[::]:0 (2)', 'tcp://[::]:40123', '[::]:40123', '40123'], ['0', '2', 'tcp://[::]:0']],
  [PATH, ['unix:/run/a,b.sock', '/run/a,b.sock'], ['/run', '4711', 'sock']],
])('an operator may name the listener %j by %j, and not by %j', (listener, texts, others) => {
  expect(texts.filter(text => !means(text, listener))).toEqual([])
  expect(others.filter(text => means(text, listener))).toEqual([])
  expect(means(shownAddress(listener), listener)).toBe(true)
})

it('addresses to give up arrive whole in the variable, which an operator may separate by commas', () => {
  const addresses = [CHOSEN.name, PATH.name]
  expect(givenUp(givingUp(addresses))).toEqual(addresses)
  expect(givenUp(givingUp([PATH.name]))).toEqual([PATH.name])
  expect(givenUp({ FD_BROKER_WITHOUT: 'tcp://[::]:1, /run/x.sock ,' })).toEqual([
    'tcp://[::]:1',
    '/run/x.sock',
  ])
  expect(givenUp({})).toEqual([])
})

it('addresses to give up are removed from the environment of a version that gives up none', () => {
  expect({ FD_BROKER_WITHOUT: '9100', ...givingUp([]) }).toEqual({ FD_BROKER_WITHOUT: undefined })
})

it('an address that the process does not have is refused with those that it has', () => {
  expect(() => checkGivenUp(['9100'], [METRICS, PATH], 7)).not.toThrow()
  expect(() => checkGivenUp(['9100', '9200'], [METRICS, PATH], 7)).toThrow(
    '--without 9200: process 7 does not listen there; it listens on tcp://127.0.0.1:9100, unix:/run/a,b.sock',
  )
})

it('a process whose next version waits for no address refuses such an upgrade', () => {
  expect(() => refuseWithout([], 'is a daemon')).not.toThrow()
  expect(() => refuseWithout(['9100'], 'is a daemon')).toThrow(
    /^process \d+ is a daemon, so its next version/,
  )
})
