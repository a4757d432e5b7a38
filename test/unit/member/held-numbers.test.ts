import { execFile } from 'node:child_process'
import { closeSync, fstatSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { join, type Member } from '../../../src/index.js'
import { OwnedFd } from '../../../src/kernel/index.js'

const UPGRADE = { probation: 100, heartbeat: 20, silence: 2_000 }

function folder(): string {
  const path = mkdtempSync(joinPath(tmpdir(), 'fdb-held-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

function open(content: string): number {
  const path = joinPath(folder(), 'f')
  writeFileSync(path, content)
  return openSync(path, 'r')
}

/** Opens files until one has this number; closes the others. */
function openAs(number: number): void {
  const opened: number[] = []
  do opened.push(open('of the program'))
  while (opened.at(-1) !== number)
  for (const other of opened.slice(0, -1)) closeSync(other)
}

function contentOf(number: number): string {
  const into = Buffer.alloc(100)
  return into.toString('utf8', 0, readSync(number, into, 0, into.length, 0))
}

function heldContent(member: Member): string {
  using held = member.held('ledger')
  return held === undefined ? 'nothing is held' : contentOf(held.raw)
}

async function serving(
  control: string,
  beforeReady: (member: Member) => unknown = () => {},
): Promise<Member> {
  const member = await join({ service: 'shop', control, upgrade: UPGRADE, drain: { timeout: 0 } })
  onTestFinished(() => member.close({ timeout: 0 }))
  await beforeReady(member)
  await member.ready()
  return member
}

/** Holds a ring of io_uring, which Node opens with UV_USE_IO_URING, and prints what happens. */
const HOLDS_RING = `
  import { readdirSync, readlinkSync } from 'node:fs'
  import { join } from ${JSON.stringify(new URL('../../../dist/index.js', import.meta.url).href)}
  const isRing = fd => { try { return readlinkSync('/proc/self/fd/' + fd).endsWith('[io_uring]') } catch { return false } }
  const ring = readdirSync('/proc/self/fd').find(isRing)
  const member = await join({ service: 'shop', control: process.argv[1] })
  const held = member.hold('ring', Number(ring)).then(() => 'held', ({ code, message }) => code + ' ' + message)
  console.log(ring === undefined ? 'no ring' : await held)
  process.exit()
`

describe('hold()', () => {
  it('has no duplicate when no descriptor is free: the error says how many there are, and a later call succeeds', async () => {
    const member = await serving(joinPath(folder(), 'fdb.sock'), first => first.hold('ledger', open('a')))
    vi.spyOn(OwnedFd.prototype, 'dup').mockImplementationOnce(() => {
      throw Object.assign(new Error('dup EMFILE'), { code: 'EMFILE' })
    })
    onTestFinished(() => void vi.restoreAllMocks())
    const held = () => heldContent(member)
    expect(held).toThrow(expect.objectContaining({ code: 'ERR_FDB_NO_DESCRIPTORS', retryable: true }))
    expect(held()).toBe('a')
  })

  it('refuses a descriptor that the kernel passes to no process: each upgrade would fail', async () => {
    const env = { ...process.env, UV_USE_IO_URING: '1' }
    const args = ['--input-type=module', '-e', HOLDS_RING, joinPath(folder(), 'c.sock')]
    const { stdout } = await promisify(execFile)(process.execPath, args, { env })
    expect(stdout).toMatch(/^no ring$|ERR_FDB_OPTION .*the kernel passes no io_uring/m)
  })

  it('closes the number with the member', async () => {
    const member = await serving(joinPath(folder(), 'c.sock'))
    const number = open('of the service')
    await member.hold('ledger', number)
    expect(contentOf(number)).toBe('of the service')
    await member.close({ timeout: 0 })
    expect(() => fstatSync(number)).toThrow('EBADF')
    await expect(member.ready()).rejects.toMatchObject({ message: 'this member has left the service' })
  })

  it('refuses the name of an open listener, which the next version still gets, and leaves the number to the program', async () => {
    const control = joinPath(folder(), 'c.sock')
    const path = `unix:@fdb-held-${process.pid}`
    const listen = async (member: Member) => (await member.listen('web', path)).serve(createServer())
    const old = await serving(control, listen)
    const number = open('of the program')
    await expect(old.hold('web', number)).rejects.toMatchObject({ code: 'ERR_FDB_LISTENER_TWICE' })
    expect(contentOf(number)).toBe('of the program')
    closeSync(number)
    await serving(control, listen)
    expect(await old.retired).toBe('replaced')
  })

  it('keeps its name from a listener in the version that uses it, and in no other', async () => {
    const control = joinPath(folder(), 'c.sock')
    const path = `unix:@fdb-held-${process.pid}`
    const taken = { code: 'ERR_FDB_LISTENER_TWICE' }
    const old = await serving(control)
    await old.hold('spool', open('of the first version'))
    await expect(old.listen('spool', path)).rejects.toMatchObject(taken)
    await expect(old.relisten('spool', path)).rejects.toMatchObject(taken)
    const uses = async (member: Member) => {
      member.held('spool')!.close()
      await expect(member.listen('spool', path)).rejects.toMatchObject(taken)
    }
    const second = await serving(control, uses)
    expect(await old.retired).toBe('replaced')
    await serving(control, async member => (await member.listen('spool', path)).serve(createServer()))
    expect(await second.retired).toBe('replaced')
  })

  it('hands a descriptor over although the program has closed its number, and leaves the file open that has the number then', async () => {
    const control = joinPath(folder(), 'c.sock')
    const old = await serving(control)
    const number = open('of the service')
    await old.hold('ledger', number)
    closeSync(number)
    openAs(number)
    expect(heldContent(old)).toBe('of the service')
    await serving(control, next => expect(heldContent(next)).toBe('of the service'))
    expect(await old.retired).toBe('replaced')
    expect(contentOf(number)).toBe('of the program')
    closeSync(number)
  })

  it('keeps no member from retiring if the program has closed the number', async () => {
    const member = await serving(joinPath(folder(), 'c.sock'))
    const number = open('of the service')
    await member.hold('ledger', number)
    closeSync(number)
    await member.close({ timeout: 0 })
    expect(await member.retired).toBe('closed')
  })

  it('hands a descriptor over although the program has closed the OwnedFd that it gave', async () => {
    const control = joinPath(folder(), 'c.sock')
    const old = await serving(control)
    const owned = OwnedFd.own(open('of the service'), 'the program')
    await old.hold('ledger', owned)
    owned.close()
    await serving(control, next => expect(heldContent(next)).toBe('of the service'))
    expect(await old.retired).toBe('replaced')
  })
})
