import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import type { FdbError } from '../../../src/errors.js'
import type { ToMember } from '../../../src/handoff/messages.js'
import type { MemberPhase } from '../../../src/handoff/phases.js'
import { closeAll, OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { HolderLink } from '../../../src/member/hosting/holder-link.js'
import { HolderMessages } from '../../../src/member/hosting/holder-messages.js'
import { JoinedHolder } from '../../../src/member/hosting/joined-holder.js'
import { Readiness } from '../../../src/member/lifecycle/readiness.js'
import { Shutdown } from '../../../src/member/lifecycle/shutdown.js'
import { ownPidfd } from '../../../src/os/liveness.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { Channel } from '../../../src/wire/channel.js'
import { packToMember } from '../../../src/wire/envelope.js'
import { Link, VERSIONS, type WireEnvelope } from '../../../src/wire/link.js'
import { withoutDescriptors } from '../../fixtures/descriptor-limit.js'
import { until } from '../../processes/until.js'

const { Envelope } = fdbroker.wire
type Handler = Parameters<HolderLink['listen']>[0]

/** A joined holder, what it is told, and what comes of that, in order. */
function joined(
  holds = true,
  phase: MemberPhase = 'serving',
  isClaimed = false,
): { handler: Handler; story: string[]; link: { open: boolean } } {
  const story: string[] = []
  let reason: FdbError | null = null
  const because = (error: FdbError) => {
    reason = error
    story.push(`because ${error.code}`)
  }
  const hosting = {
    handle: () => false,
    onLost: () => story.push('hosting lost'),
    onReleased: () => story.push('hosting released'),
  }
  const shutdown = {
    recordReason: (error: FdbError) => {
      if (reason === null) because(error)
    },
    replaceReason: because,
    handleVerdict: (word: string) => story.push(`shutdown ${word}`),
    over: false,
    cannotServe: new Shutdown().cannotServe,
  }
  const machine = {
    member: { epoch: 1, holds, phase },
    sealed: false,
    isSealed: () => false,
    isReleased: false,
    isClaimed,
    step: (event: { type: string; message?: { kind: string }; fate?: string }) =>
      story.push(['step', event.type, event.message?.kind ?? event.fate ?? ''].join(' ').trim()),
  }
  const parts = { shutdown, machine, hosting: () => hosting }
  const messages = new HolderMessages({
    ...parts,
    leadership: { quiesce: async () => {} },
    offers: { announce: () => {}, receive: () => {} },
    orders: { handle: () => false, openChannel: () => false },
  })
  let handler!: Handler
  const link = { open: true }
  const holder = {
    facts: { pid: 7 },
    link,
    listen: (given: Handler) => {
      handler = given
    },
  }
  const readiness = new Readiness(() => {}, SILENT)
  const refuse = (error: FdbError) => story.push(`refuse ${error.code}`)
  new JoinedHolder({ ...parts, messages, readiness, refuse }).attach(holder as unknown as HolderLink)
  return { handler, story, link }
}

/** As it arrives. */
const said = (message: Exclude<ToMember, { kind: 'offer' }>): WireEnvelope =>
  Envelope.decode(Envelope.encode(packToMember(message)).finish())

describe('a message of the holder', () => {
  it.each([
    ['retire', { kind: 'retire' }, ['shutdown retire', 'step message retire']],
    ['resume', { kind: 'resume' }, ['shutdown resume', 'step message resume']],
    ['reinstate', { kind: 'reinstate', epoch: 2 }, ['shutdown resume', 'step message reinstate']],
    ['released', { kind: 'released' }, ['hosting released', 'step message released']],
    ['fenced', { kind: 'fenced' }, ['because ERR_FDB_FENCED', 'step message fenced']],
    ['abort', { kind: 'abort' }, ['because ERR_FDB_ABORTED', 'step message abort']],
    ['freeze', { kind: 'freeze' }, ['step message freeze']],
  ] as const)('arrives: %s', (_name, message, wanted) => {
    const { handler, story } = joined()
    handler.message(said(message))
    expect(story).toEqual(wanted)
  })

  it('replaces the reason of a process that has served, not that of a joiner which has lost its channel', () => {
    const cut = { code: 'ERR_FDB_CHANNEL_RESET' } as FdbError
    const afterCut = (phase: MemberPhase) => {
      const { handler, story } = joined(true, phase)
      handler.lost(cut)
      handler.message(said({ kind: 'fenced' }))
      return story.filter(each => each.startsWith('because'))
    }
    expect(afterCut('serving')).toEqual(['because ERR_FDB_CHANNEL_RESET', 'because ERR_FDB_FENCED'])
    expect(afterCut('ready')).toEqual(['because ERR_FDB_CHANNEL_RESET'])
  })

  it('says why this process is refused', () => {
    const { handler, story } = joined()
    handler.message({ reject: { code: 'ERR_FDB_BUSY', message: 'later' } } as WireEnvelope)
    expect(story).toEqual(['because ERR_FDB_BUSY', 'step refused'])
  })
})

describe('the end of its channel', () => {
  it('reaches the machine, with the reason, and then the keeper of the service', () => {
    const lost = (error: FdbError | null, holds: boolean) => {
      const { handler, story } = joined(holds)
      handler.lost(error)
      return story
    }
    expect(lost(null, true)).toEqual(['step lost', 'hosting lost'])
    expect(lost(null, false)).toEqual(['because ERR_FDB_CHANNEL_CLOSED', 'step lost', 'hosting lost'])
    const cut = { code: 'ERR_FDB_CHANNEL_RESET' } as FdbError
    expect(lost(cut, true)).toEqual(['because ERR_FDB_CHANNEL_RESET', 'step lost', 'hosting lost'])
  })

  it('comes before its death is told: what it said last is in the channel, and counts', () => {
    const first = joined()
    first.handler.died()
    expect(first.story).toEqual([])
    first.handler.lost(null)
    expect(first.story).toEqual(['step lost', 'step fate dead', 'hosting lost'])
    const after = joined()
    after.handler.lost(null)
    after.link.open = false
    after.handler.died()
    expect(after.story).toEqual(['step lost', 'hosting lost', 'step fate dead'])
  })
})

it('leaves the place of a holder that died to the process that has claimed it before: upgrade --kill-stuck', () => {
  const { handler, story } = joined(true, 'ready', true)
  handler.lost(null)
  expect(story).toEqual(['step lost', 'hosting lost'])
  const before = joined(true, 'ready', true)
  before.handler.died()
  before.handler.lost(null)
  expect(before.story).toEqual(['step lost', 'because ERR_FDB_LOST', 'step fate alive', 'hosting lost'])
})

describe('the link to a holder', () => {
  it('has a watch from the Welcome, and reads when the member listens', async () => {
    const [here, there] = native.socketPair()
    const far = new Link(new Channel(OwnedFd.own(there, 'holder')))
    far.start({
      message: ({ hello }, fds) => {
        closeAll(fds)
        if (!hello) return
        far.post({ welcome: { version: 1, pid: process.pid, generation: 3 } })
        far.post({ heartbeat: { healthy: true } })
      },
      broken: () => {},
      end: () => {},
    })
    const link = await HolderLink.greet(
      OwnedFd.own(here, 'member'),
      { service: 'shop', versions: VERSIONS, wantedTimes: {}, stateFile: null },
      { timeoutMs: 5_000, signal: undefined },
    )
    onTestFinished(() => {
      link.close()
      far.close()
    })
    expect([link.facts.generation, link.watched]).toEqual([3, true])
    const heard: string[] = []
    link.listen({
      message: ({ body = '' }) => heard.push(body),
      bundle: () => {},
      broken: () => {},
      lost: () => heard.push('lost'),
      died: () => heard.push('died'),
    })
    expect(link.watched).toBe(true)
    await until('what came behind the Welcome is heard', () => heard.includes('heartbeat'))
    far.close()
    await until('its end is told', () => heard.includes('lost'))
    expect(heard).toEqual(['heartbeat', 'lost'])
  })

  it('fails if no descriptor is left for the watch, so that a member that reconnects tries again', async () => {
    const [here, there] = native.socketPair()
    const far = new Link(new Channel(OwnedFd.own(there, 'holder')))
    let giveBack = () => {}
    onTestFinished(() => {
      giveBack()
      far.close()
    })
    far.start({
      message: (_envelope, fds) => {
        closeAll(fds)
        const pidfd = ownPidfd()!
        giveBack = withoutDescriptors()
        void far.send({ welcome: { version: 1, pid: process.pid, generation: 3 } }, [pidfd]).finally(() => {
          // The one that is left is for the pidfd in the Welcome.
          pidfd.close()
        })
      },
      broken: () => {},
      end: () => {},
    })
    await expect(
      HolderLink.greet(
        OwnedFd.own(here, 'member'),
        { service: 'shop', versions: VERSIONS, wantedTimes: {}, stateFile: null },
        { timeoutMs: 5_000, signal: undefined },
      ),
    ).rejects.toMatchObject({ code: 'ERR_FDB_NO_DESCRIPTORS' })
  })
})
