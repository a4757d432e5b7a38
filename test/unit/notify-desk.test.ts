import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { AuditedDescriptors } from '../../src/daemon/audited-descriptors.js'
import { NotifyDesk } from '../../src/daemon/notify-desk.js'
import { DescriptorStore } from '../../src/daemon/service/descriptor-store.js'
import { ProgramStore } from '../../src/daemon/service/program-store.js'
import { Registry } from '../../src/holder/registry.js'
import {
  connectToDatagram,
  memoryFile,
  type OwnedFd,
  receiveMessage,
  sendMessage,
  socketPair,
} from '../../src/kernel/index.js'
import { needsRoot, SecondUser } from '../processes/second-user.js'
import { until } from '../processes/until.js'

/** A notify socket, and what a program says there. */
function desk() {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-notify-'))
  const path = join(folder, 'notify')
  const registry = new Registry()
  const daemon = { settled: true }
  const warned: object[] = []
  const store = new DescriptorStore(registry, new Set(), () => daemon.settled)
  const programs = new ProgramStore({
    store,
    holder: new AuditedDescriptors(store, SILENT),
    most: 10,
    refused: facts => expect.fail(JSON.stringify(facts)),
  })
  const notify = new NotifyDesk({
    path,
    registry,
    wanted: new Set(),
    programs,
    logger: { ...SILENT, warn: facts => void warned.push(facts) },
    settled: () => daemon.settled,
  })
  onTestFinished(() => {
    notify.close({ kept: false })
    programs[Symbol.dispose]()
    store[Symbol.dispose]()
    registry.close()
    rmSync(folder, { recursive: true, force: true })
  })
  const say = (text: string, fd: OwnedFd) => {
    using socket = connectToDatagram(path, false, 'a program')
    sendMessage(socket, Buffer.from(text), 0, text.length, [fd])
    fd.close()
  }
  const isKept = (name: string) =>
    registry.names.some(entry => entry.startsWith('fd/') && entry.endsWith(name))
  return { folder, path, daemon, warned, say, isKept }
}

describe('the notify socket of a daemon', () => {
  it('takes nothing from another user, which is a line of the log', async context => {
    needsRoot(context)
    const { folder, path, warned, isKept, say } = desk()
    const user = await SecondUser.start()
    chmodSync(folder, 0o711)
    chmodSync(path, 0o666)
    await user.notifies(path, 'FDSTORE=1\nFDNAME=theirs')
    say('FDSTORE=1\nFDNAME=mine', memoryFile('mine', 'a memory file'))
    await until('the daemon keeps what its own user gives', () => isKept('mine'))
    expect(warned).toEqual([expect.objectContaining({ pid: user.pid, code: 'ERR_FDB_DENIED' })])
  })

  it('closes the descriptor of BARRIER=1 once all before it is taken', async () => {
    const { isKept, say } = desk()
    const [ours, theirs] = socketPair('barrier')
    onTestFinished(() => ours.close())
    say('FDSTORE=1\nFDNAME=mine', memoryFile('mine', 'a memory file'))
    say('BARRIER=1', theirs)
    const byte = Buffer.alloc(1)
    await until('the barrier is passed', () => receiveMessage(ours, byte, 0, 1).bytes === 0, 1_000)
    expect(isKept('mine')).toBe(true)
  })

  it('leaves a message in the socket while the daemon is handed over, and takes it when the daemon goes on', async () => {
    const { daemon, isKept, say } = desk()
    let asked = 0
    Object.defineProperty(daemon, 'settled', { get: () => ++asked > 3 })
    say('FDSTORE=1\nFDNAME=mine', memoryFile('mine', 'a memory file'))
    await until('the message is taken', () => isKept('mine'), 1_000)
    expect(asked).toBeGreaterThan(3)
  })
})
