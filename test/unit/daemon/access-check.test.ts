import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import {
  AccessCheck,
  type ClientIdentity,
  executableOf,
  isProgram,
} from '../../../src/daemon/policy/access-check.js'
import { OWNERS_ONLY } from '../../../src/daemon/policy/policy.js'
import { parsePolicy } from '../../../src/daemon/policy/schema.js'
import { OwnedFd } from '../../../src/kernel/index.js'
import { openPidfd, ownPidfd } from '../../../src/os/liveness.js'
import { until } from '../../processes/until.js'

const own = process.geteuid?.() ?? 0
const OTHER = own + 12_001

type Line = Record<string, unknown>

function gateOf(config: string) {
  const lines: Line[] = []
  const note = (facts: object, message: string) => lines.push({ ...facts, message })
  const logger = { debug: () => {}, info: note, warn: note, error: note }
  return { gate: new AccessCheck(parsePolicy(config, 'broker.yaml'), logger), lines }
}

function peer(uid: number, gid = uid, pidfd: OwnedFd | null = null): ClientIdentity {
  return { pid: 7, uid, gid, pidfd }
}

/** Whether it may join the service shop. */
function joins({ gate, lines }: ReturnType<typeof gateOf>, who: ClientIdentity): boolean {
  try {
    gate.demand('join', { service: 'shop' }, gate.policyOf('shop'), who)
    return lines.at(-1)?.allowed === true
  } catch (error) {
    expect(error).toMatchObject({ code: 'ERR_FDB_DENIED' })
    return false
  }
}

describe('the rights of users and programs', () => {
  it('belong to the daemon’s own user and root, where no rule says more', () => {
    const nothing = gateOf('')
    const bare = { gate: new AccessCheck(OWNERS_ONLY, SILENT), lines: [{ allowed: true }] }
    for (const each of [nothing, bare])
      expect([own, 0, OTHER].map(uid => joins(each, peer(uid)))).toEqual([true, true, false])
    expect([nothing.gate.opensToOthers, nothing.gate.mayConnect(OTHER)]).toEqual([false, false])
  })

  it('belong to each user and group that a rule names', () => {
    const one = gateOf(`services: { shop: { join: [{ uid: ${OTHER}, gid: 5 }, { gid: 6 }] } }`)
    const asked = [peer(OTHER, 5), peer(OTHER, 4), peer(OTHER + 1, 6), peer(own, 4)]
    expect(asked.map(who => joins(one, who))).toEqual([true, false, true, false])
    expect(one.lines.map(({ rule }) => rule)).toEqual([
      'services.shop.join[0]',
      'services.shop.join',
      'services.shop.join[1]',
      'services.shop.join',
    ])
    // The users of a group are unknown.
    expect(one.gate.mayConnect(OTHER + 7)).toBe(true)
  })

  it('belong to a program that a rule names, and to no process whose program cannot be seen', ({ skip }) => {
    using pidfd = ownPidfd()
    if (pidfd === null) return skip('no pidfds here')
    const one = gateOf(`services: { shop: { join: [{ uid: ${OTHER}, executable: ${process.execPath} }] } }`)
    expect(joins(one, peer(OTHER, OTHER, pidfd))).toBe(true)
    expect(joins(one, peer(OTHER))).toBe(false)
  })

  it('follow the rule for the service, and else the rule for all', () => {
    const both = gateOf(`
default: { join: [anyone], limits: { members: 3, listeners: 4 }, unserved: { after: 1s, close: true } }
services: { mail: { join: [], limits: { members: 2 } }, shop: { unserved: hold } }`)
    expect(joins(both, peer(OTHER))).toBe(true)
    expect(() =>
      both.gate.demand('join', { service: 'mail' }, both.gate.policyOf('mail'), peer(own)),
    ).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_DENIED',
        message: expect.stringContaining('services.mail.join'),
      }),
    )
    expect(both.gate.policyOf('mail')).toMatchObject({
      limits: { members: 2, listeners: 4 },
      unserved: { afterMs: 1000, act: 'close' },
    })
    expect(both.gate.policyOf('shop').unserved).toBeNull()
  })

  it.each([
    ['a text that is nobody', 'default: { join: [me] }', '1:19: default.join[0]: "me" is none of'],
    [
      'nobody in particular',
      'default: { join: [{}] }',
      '1:19: default.join[0]: the rule matches every process',
    ],
    ['two who serve', 'services: { shop: { serving: 2 } }', 'services.shop.serving: 2 is not 1'],
    ['two ends', 'default: { unserved: { close: true, run: x } }', 'give one of `close: true` and `run`'],
    ['a file that is nowhere', 'default: { join: [{ executable: node }] }', 'no absolute path'],
  ])('exclude a rule that says %s', (_what, text, message) => {
    expect(() => parsePolicy(text, 'broker.yaml')).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_CONFIG', message: expect.stringContaining(message) }),
    )
  })
})

describe('the program of a process', () => {
  it('comes from its pidfd, and means the file, whatever leads to it', ({ skip }) => {
    using pidfd = ownPidfd()
    if (pidfd === null) return skip('no pidfds here')
    const folder = mkdtempSync(join(tmpdir(), 'fdb-exe-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    symlinkSync(process.execPath, join(folder, 'link'))
    writeFileSync(join(folder, 'other'), '')
    const runs = executableOf(pidfd)!
    expect(runs.path).toBe(process.execPath)
    const files = [process.execPath, join(folder, 'link'), join(folder, 'other'), join(folder, 'none')]
    expect(files.map(file => isProgram(runs, file))).toEqual([true, true, false, false])
  })

  it('stays its first one, when that was replaced since; none, when it has ended', async ({ skip }) => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-exe-'))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    const file = join(folder, 'sleep')
    copyFileSync('/bin/sleep', file)
    const child = spawn(file, ['60'])
    onTestFinished(() => void child.kill('SIGKILL'))
    await once(child, 'spawn')
    const pidfd = openPidfd(child.pid!)
    if (!(pidfd instanceof OwnedFd)) return skip('no pidfds here')
    onTestFinished(() => pidfd.close())
    await until('it runs the program', () => executableOf(pidfd)?.path === file)
    rmSync(file)
    copyFileSync('/bin/sleep', file)
    expect(isProgram(executableOf(pidfd)!, file)).toBe(true)
    expect(isProgram({ ...executableOf(pidfd)!, here: false }, file)).toBe(false)
    child.kill('SIGKILL')
    await once(child, 'exit')
    expect(executableOf(pidfd)).toBeNull()
    expect(executableOf(null)).toBeNull()
  })

  it('of one that may operate a service sees its status, which an upgrade reads, and not its descriptors', () => {
    const { gate } = gateOf(`services: { shop: { operate: [{ uid: ${OTHER} }] } }`)
    const shows = gate.statusFilter(peer(OTHER, OTHER, null))
    expect([shows('shop'), shows('mail')]).toEqual([true, false])
    expect(() => gate.listFilter(peer(OTHER, OTHER, null))).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_DENIED' }),
    )
  })

  it('of a rule whose path cannot be followed matches no process, and takes no right from others', () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-loop-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const loop = join(folder, 'loop')
    symlinkSync(loop, loop)
    using pidfd = ownPidfd()!
    const rules = `[{ executable: ${loop} }, owner]`
    const one = gateOf(`services: { shop: { join: ${rules}, list: ${rules} } }`)
    expect([own, OTHER].map(uid => joins(one, peer(uid, uid, pidfd)))).toEqual([true, false])
    expect(one.gate.listFilter(peer(own, own, pidfd))('shop')).toBe(true)
  })
})
