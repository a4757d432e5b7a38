import { spawn } from 'node:child_process'
import { expect, it, onTestFinished } from 'vitest'
import type { OwnedFd } from '../../../src/kernel/index.js'
import { openPidfd } from '../../../src/os/liveness.js'
import { OfferReceiver } from '../../fixtures/member.js'
import { untyped } from '../../fixtures/untyped.js'
import { until } from '../../processes/until.js'

it('a member has for a restarted daemon the pidfds of the members that live, and no other', async () => {
  const [dies, lives] = [spawn('sleep', ['600']), spawn('sleep', ['600'])]
  onTestFinished(() => {
    for (const child of [dies, lives]) child.kill('SIGKILL')
  })
  const receiver = new OfferReceiver(
    untyped({
      settings: {},
      machine: { member: { epoch: 1 } },
      registry: { items: () => [], wanted: new Set() },
      segmentSet: { all: [], prune() {} },
      adopted: { events: { items: () => [] } },
      events: { newerSegments() {} },
    }),
  )
  onTestFinished(() => receiver.close())
  const pidfds = [dies, lives].map(({ pid }) => openPidfd(pid!) as OwnedFd)
  receiver.receive(pidfds.map(fd => ({ role: 'pidfd' as const, fd })))
  expect(receiver.held().map(({ fd }) => fd)).toEqual(pidfds)
  dies.kill('SIGKILL')
  await until('the pidfd is closed', () => pidfds[0]!.closed)
  expect(receiver.held().map(({ fd }) => fd)).toEqual([pidfds[1]])
})
