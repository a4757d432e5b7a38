import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { UserQuotas } from '../../../src/daemon/user-quotas.js'
import { type Caller, receiveHello } from '../../../src/holder/admission.js'
import { closeAll, OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { ownPidfd } from '../../../src/os/liveness.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { Channel } from '../../../src/wire/channel.js'
import { Link, VERSIONS, type WireEnvelope } from '../../../src/wire/link.js'
import { pause, until } from '../../processes/until.js'

type Hello = Caller['hello']

const own = process.geteuid!()

interface Connected {
  link: Link
  answer(): WireEnvelope | undefined
  callers: Caller[]
  hello: Hello
  end(): void
}

/** The answer to a process of this user, and whether it was admitted. `says`: in its Hello. */
function connectAs(uid: number, says: Hello = {}, proof: OwnedFd[] = []): Connected {
  const [here, there] = native.socketPair()
  const link = new Link(new Channel(OwnedFd.own(there, 'client')))
  const heard: WireEnvelope[] = []
  link.start({
    message: (envelope, fds) => {
      closeAll(fds)
      heard.push(envelope)
    },
    broken: () => {},
    end: () => {},
  })
  const callers: Caller[] = []
  const options = { versions: VERSIONS, service: 'shop', timeoutMs: 5_000, logger: SILENT }
  receiveHello(OwnedFd.own(here, 'holder'), { pid: process.pid, uid, gid: uid }, options, caller =>
    callers.push(caller),
  )
  const end = () => {
    link.close()
    for (const { link: theirs, pidfd } of callers) {
      theirs.close()
      pidfd?.close()
    }
  }
  onTestFinished(end)
  const { min: versionMin, max: versionMax } = VERSIONS
  const hello = {
    versionMin,
    versionMax,
    service: 'shop',
    intent: fdbroker.wire.Intent.JOIN,
    pid: process.pid,
    ...says,
  }
  void link.send({ hello }, proof)
  return { link, answer: () => heard[0], callers, hello, end }
}

describe('a holder', () => {
  it('admits its own user and root, by the word of the kernel', async () => {
    for (const uid of new Set([own, 0])) {
      const { callers } = connectAs(uid)
      await until(`uid ${uid} is admitted`, () => callers.length === 1)
      expect(callers[0]?.uid).toBe(uid)
    }
  })

  it('admits no other user, whatever that one says', async () => {
    for (const uid of [own + 1, 65_534]) {
      const { answer, callers } = connectAs(uid)
      const { reject } = await until(`uid ${uid} is answered`, answer)
      expect(reject).toMatchObject({
        code: 'ERR_FDB_DENIED',
        message: expect.stringContaining(
          `uid ${uid} may not use this control socket: it belongs to uid ${own}`,
        ),
      })
      expect(callers).toEqual([])
    }
  })

  it('tells one of another protocol which versions it speaks itself', async () => {
    const { answer, callers } = connectAs(own, { versionMin: 998, versionMax: 999 })
    const { reject } = await until('it is answered', answer)
    const { min: versionMin, max: versionMax } = VERSIONS
    expect(reject).toMatchObject({ code: 'ERR_FDB_VERSION', versionMin, versionMax })
    expect(callers).toEqual([])
  })

  it('admits nobody of another service; an operator names none', async () => {
    const { answer, callers } = connectAs(own, { service: 'till' })
    const { reject } = await until('it is answered', answer)
    expect(reject).toMatchObject({ code: 'ERR_FDB_SERVICE' })
    expect(callers).toEqual([])
    const operator = connectAs(own, { service: '', intent: fdbroker.wire.Intent.OPERATE })
    await until('the operator is admitted', () => operator.callers.length === 1)
    expect(operator.callers[0]?.intent).toBe('operate')
  })

  it('admits a process once, whatever it says after its Hello', async () => {
    const { link, hello, callers } = connectAs(own)
    await link.send({ hello })
    await until('it is admitted', () => callers.length > 0)
    await pause(20)
    expect(callers).toHaveLength(1)
  })

  it('holds one proof of life of a process, the kernel’s own or else what it was given', async ({ skip }) => {
    using proof = ownPidfd()
    if (proof === null) return skip('no pidfds here')
    const before = native.openCount()
    const { callers, end } = connectAs(own, {}, [proof])
    await until('it is admitted', () => callers.length === 1)
    expect(callers[0]?.pidfd).not.toBeNull()
    end()
    expect(native.openCount()).toBe(before)
  })

  it('lets the connections of another user wait for its time, and closes those of a flood unread', async () => {
    const quotas = new UserQuotas(1_024)
    const foreignUser = quotas.foreignUserOf(own + 1)!
    const options = { versions: VERSIONS, service: 'shop', timeoutMs: 5_000, logger: SILENT }
    const rules = { mayConnect: () => true, foreignUserOf: (uid: number) => quotas.foreignUserOf(uid) }
    const connect = (uid: number) => {
      const [here, there] = native.socketPair()
      onTestFinished(() => native.close(there))
      const who = { pid: process.pid, uid, gid: uid }
      const taken = receiveHello(OwnedFd.own(here, 'holder'), who, { ...options, ...rules }, () => {})
      return { taken, closed: () => native.hangups([there])[0] === 1 }
    }
    foreignUser.spend(20)
    const all = Array.from({ length: 20 }, () => connect(own + 1))
    expect(all.map(({ taken }) => taken)).toEqual([...Array(16).fill(true), ...Array(4).fill(false)])
    expect(all.map(({ closed }) => closed())).toEqual([...Array(16).fill(false), ...Array(4).fill(true)])
    expect(connect(own).taken).toBe(true)
    await until(
      'they are served',
      () => all.slice(0, 16).every(({ closed }) => !closed()) && foreignUser.waitMs === 0,
    )
  })
})
