import { setTimeout as pause } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { Followers, ForeignFollowers } from '../../../src/daemon/service/followers.js'
import type { Peer } from '../../../src/holder/peer.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { AppendNotice } from '../../../src/member/hosting/operator-requests.js'
import type { Link } from '../../../src/wire/link.js'
import { linked, peerWith } from '../../holder-support/processes.js'
import { until } from '../../processes/until.js'

/** A process, and what it hears. */
function hearing(): { link: Link; peer: Peer; heard(): string[] } {
  const { link, heard } = linked()
  const words = () =>
    heard.flatMap(({ appended, tellAppended }) => {
      if (tellAppended) return [tellAppended.wanted ? 'wanted' : 'unwanted']
      return appended ? ['appended'] : []
    })
  return { link, peer: peerWith({ link }), heard: words }
}

it('the writer tells its appends as long as a follower is there, and every follower is told', async () => {
  const [first, second, one, two] = [hearing(), hearing(), hearing(), hearing()]
  let writer: Peer | undefined = first.peer
  const followers = new Followers(() => writer)
  followers.updateWriter()
  followers.add(one.link)
  followers.add(two.link)
  await until('it is asked', () => first.heard().length > 0)
  followers.notifyAll(first.peer)
  await until('both are told', () => one.heard().length + two.heard().length === 2)
  expect([first.heard(), one.heard(), two.heard()]).toEqual([['wanted'], ['appended'], ['appended']])
  // The writer dies; another process writes next.
  writer = undefined
  followers.updateWriter()
  writer = second.peer
  followers.updateWriter()
  followers.updateWriter()
  await until('the other is asked', () => second.heard().length > 0)
  followers.remove(one.link)
  followers.remove(one.link)
  expect(followers.size).toBe(1)
  followers.remove(two.link)
  await until('nobody wants to know', () => second.heard().length > 1)
  expect(second.heard()).toEqual(['wanted', 'unwanted'])
  // One that was asked by the daemon before this one.
  followers.notifyAll(first.peer)
  await until('it is told so', () => first.heard().length > 1)
  expect(first.heard()).toEqual(['wanted', 'unwanted'])
})

it('a notice tells of all appends that come together, and none goes out without a follower', async () => {
  const appended = new Set<() => void>()
  let told = 0
  const notice = new AppendNotice(appended, () => told++)
  const append = () => appended.forEach(each => void each())
  append()
  expect(appended.size).toBe(0)
  notice.want(true)
  await until('what is there already is told', () => told === 1)
  for (let i = 0; i < 100; i++) append()
  await until('all of it is told', () => told === 2)
  notice.want(true)
  expect(appended.size).toBe(1)
  await until('it is told when it is asked again', () => told === 3)
  append()
  notice.want(false)
  append()
  await pause(30)
  expect([told, appended.size]).toEqual([3, 0])
})

it('followers of another user cost nothing while no record is added', async () => {
  const segments = new SegmentSet()
  let looks = 0
  const seen = new Proxy(segments, {
    get: (target, name) => {
      looks++
      const value = Reflect.get(target, name, target)
      return typeof value === 'function' ? value.bind(target) : value
    },
  })
  const followers = new ForeignFollowers(seen, () => 0, {
    drop: () => {},
    onFailure: error => expect.fail(`${error}`),
  })
  followers.refresh()
  for (let i = 0; i < 100; i++) await new Promise(resolve => setImmediate(resolve))
  const once = looks
  expect(once).toBeGreaterThan(0)
  for (let i = 0; i < 1_000; i++) await new Promise(resolve => setImmediate(resolve))
  followers.close()
  // The interval of its own looks may have passed a few times.
  expect(looks - once).toBeLessThan(100)
})
