import { mkdtempSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import {
  DescriptorNames,
  type NotedDescriptors,
  readDescriptorNames,
} from '../../../src/holder/descriptor-names.js'
import { type Entry, namedEntry } from '../../../src/holder/entry.js'
import { bindSocket, closeAll, inspectOne, numbersOf, OwnedFd, openFile } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { entriesOf } from '../../../src/member/joining/hung-incumbent.js'

const owned: OwnedFd[] = []

function own(fd: OwnedFd): OwnedFd {
  if (owned.length === 0) onTestFinished(() => closeAll(owned.splice(0)))
  owned.push(fd)
  return fd
}

/** A file that one opens again and again. */
function file(): (flags: string) => OwnedFd {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-noted-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  writeFileSync(join(folder, 'file'), '')
  return flags => own(openFile(join(folder, 'file'), flags, 'a file'))
}

/** All of this kind have one inode. */
const anonymous = () => own(OwnedFd.own(native.createEpoll()!, 'an anonymous inode'))

function noteOf(entries: readonly Entry[]): NotedDescriptors {
  const note = new DescriptorNames({ service: 'shop', generation: 1, serviceStartedAt: 0 }, () => entries)
  onTestFinished(() => note.close())
  return readDescriptorNames(note.file!)!
}

/** Which descriptor of this process, as if it hung, is taken for each name. */
function taken(noted: NotedDescriptors): Record<string, number> {
  const descriptors = new Map<number, string>()
  for (const number of readdirSync('/proc/self/fd').map(Number)) {
    try {
      descriptors.set(number, readlinkSync(`/proc/self/fd/${number}`))
    } catch {
      // That of the list itself.
    }
  }
  const from = new Map<OwnedFd, number>()
  const take = (number: number) => {
    const fd = own(OwnedFd.duplicate(number, 'taken'))
    from.set(fd, number)
    return fd
  }
  const entries = entriesOf(noted, descriptors, take)
  const kept = new Set(entries.map(({ fd }) => fd))
  expect([...from.keys()].filter(fd => !fd.closed && !kept.has(fd))).toEqual([])
  return Object.fromEntries(entries.map(({ name, fd }) => [name, from.get(fd)!]))
}

const numberOf = (fd: OwnedFd) => numbersOf([fd])[0]!

it('takes the noted entry of a hanging process away from it, and nothing else that looks alike', () => {
  const open = file()
  open('r')
  const journal = open('r+')
  anonymous()
  const [first, second] = [anonymous(), anonymous()]
  const socket = own(bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0 }, 'a socket'))
  const entries = [
    namedEntry('journal', journal),
    namedEntry('first', first),
    namedEntry('second', second),
    namedEntry('socket', socket),
    namedEntry('the same', own(socket.dup())),
  ]
  expect(inspectOne(first).ino).toBe(inspectOne(second).ino)
  expect(taken(noteOf(entries))).toMatchObject({
    journal: numberOf(journal),
    first: numberOf(first),
    second: numberOf(second),
    socket: numberOf(socket),
    'the same': expect.any(Number),
  })
})

it('takes no entry that differs from its note, but for a socket, which has its own inode', () => {
  const open = file()
  open('r')
  const journal = open('r+')
  const socket = own(bindSocket({ kind: 'udp', host: '127.0.0.1', port: 0 }, 'a socket'))
  const noted = noteOf([namedEntry('journal', journal), namedEntry('socket', socket)])
  own(socket.dup())
  for (const fd of [journal, socket]) fd.close()
  expect(Object.keys(taken(noted))).toEqual(['socket'])
  // The numbers may be reused by now.
  for (let i = 0; i < 2; i++) file()('r+')
  expect(Object.keys(taken(noted))).toEqual(['socket'])
})
