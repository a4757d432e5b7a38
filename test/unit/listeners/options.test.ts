import { createSocket } from 'node:dgram'
import { chownSync, lstatSync, mkdtempSync, renameSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import {
  closeAll,
  connectToUnix,
  inspectOne,
  listenOver,
  type OwnedFd,
  releaseNumber,
} from '../../../src/kernel/index.js'
import { adjustListener, bindListener, parseListenerSpec } from '../../../src/listeners/index.js'
import { removeUnixPath } from '../../../src/listeners/unix-path.js'
import { until } from '../../processes/until.js'

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), 'fdb-options-'))
  onTestFinished(() => rmSync(path, { recursive: true, force: true }))
  return path
}

function bound(spec: string): OwnedFd {
  const fd = bindListener(parseListenerSpec(spec))
  onTestFinished(() => fd.close())
  return fd
}

const root = process.geteuid?.() === 0

describe('an adopted listener', () => {
  it('of the host ::1 is not said to differ in ipv6Only', () => {
    const address = 'tcp://[::1]:0'
    const fd = bound(`${address}?ipv6Only=false`)
    const now = inspectOne(fd)
    const change = (wanted: string) => adjustListener(fd, now, null, parseListenerSpec(wanted))
    expect(change(address)).toEqual([])
    expect(change(`${address}?ipv6Only=true`)).toEqual([])
  })

  it('of UDP is not said to differ because the previous version has opened it with Node', async () => {
    const fd = bound('udp://127.0.0.1:0')
    const socket = createSocket('udp4')
    await new Promise<void>(resolve => socket.bind({ fd: releaseNumber(fd.dup()) }, resolve))
    onTestFinished(() => void socket.close())
    const now = inspectOne(fd)
    expect(now.reuseAddr).toBe(true)
    const change = (before: string, wanted: string) =>
      adjustListener(fd, now, parseListenerSpec(before), parseListenerSpec(wanted))
    expect(change('udp://127.0.0.1:5', 'udp://127.0.0.1:5')).toEqual([])
    const changed = [{ option: 'reuseAddr', applied: true }]
    expect(change('udp://127.0.0.1:5?reuseAddr', 'udp://127.0.0.1:5')).toEqual(changed)
  })

  it('has the mode and the owner that the next version asks for, and says what was changed', () => {
    const path = join(folder(), 'x.sock')
    const fd = bound(`unix:${path}?mode=0600`)
    const { uid, gid } = lstatSync(path)
    const before = parseListenerSpec(`unix:${path}?mode=0600`)
    const adjusted = (options: string) =>
      adjustListener(fd, inspectOne(fd), before, parseListenerSpec(`unix:${path}?${options}`))
    expect(adjusted('mode=0660')).toEqual([{ option: 'mode', applied: true }])
    expect(lstatSync(path).mode & 0o777).toBe(0o660)
    expect(adjusted(`mode=0660&uid=${uid}&gid=${gid}`)).toEqual([])
    if (!root) return
    expect(adjusted(`uid=${uid + 1}`)).toEqual([{ option: 'owner', applied: true }])
    expect(lstatSync(path)).toMatchObject({ uid: uid + 1, gid })
    chownSync(path, uid, gid)
  })

  it('leaves its path as it is, and says so, if that leads to another socket by now', () => {
    const path = join(folder(), 'x.sock')
    const fd = bound(`unix:${path}?mode=0600`)
    renameSync(path, `${path}.away`)
    bound(`unix:${path}?mode=0600`)
    const before = lstatSync(path)
    const wanted = parseListenerSpec(`unix:${path}?mode=0666&uid=${before.uid + 1}`)
    const reason = expect.stringContaining(path)
    expect(adjustListener(fd, inspectOne(fd), null, wanted)).toEqual([
      { option: 'mode', applied: false, reason },
      { option: 'owner', applied: false, reason },
    ])
    const { mode, uid } = lstatSync(path)
    expect({ mode, uid }).toEqual({ mode: before.mode, uid: before.uid })
  })

  it('has room for who comes while many wait and a server begins to accept', async () => {
    const path = join(folder(), 'x.sock')
    const fd = bound(`unix:${path}`)
    const clients = Array.from({ length: 600 }, () => connectToUnix(path, 'a client'))
    onTestFinished(() => closeAll(clients))
    const accepted: net.Socket[] = []
    const server = net.createServer(socket => accepted.push(socket))
    onTestFinished(() => {
      for (const socket of accepted) socket.destroy()
      server.close()
    })
    listenOver(server, fd.dup(), parseListenerSpec(`unix:${path}`).backlog)
    // Before anything else of this process runs.
    clients.push(connectToUnix(path, 'one more'))
    await until('all are accepted', () => accepted.length === clients.length)
  })
})

describe('the path of a Unix listener', () => {
  it('has the owner that was asked for from its birth', ({ skip }) => {
    if (!root) return skip('only root gives files away')
    const path = join(folder(), 'x.sock')
    bound(`unix:${path}?uid=7&gid=8`)
    expect(lstatSync(path)).toMatchObject({ uid: 7, gid: 8 })
  })

  it('goes with the process to which it leads, and stays for all others', () => {
    const path = join(folder(), 'x.sock')
    const first = bound(`unix:${path}`)
    renameSync(path, `${path}.away`)
    const second = bound(`unix:${path}`)
    const spec = parseListenerSpec(`unix:${path}`)
    for (const other of ['unix:@abstract', 'tcp://127.0.0.1:1'].map(text => parseListenerSpec(text)))
      expect(removeUnixPath(second, other)).toBe(false)
    for (const none of [spec, null]) expect(removeUnixPath(first, none)).toBe(false)
    expect(lstatSync(path).isSocket()).toBe(true)
    expect(removeUnixPath(second, spec)).toBe(true)
    expect(lstatSync(path, { throwIfNoEntry: false })).toBeUndefined()
    expect(removeUnixPath(second, spec)).toBe(false)
  })
})
