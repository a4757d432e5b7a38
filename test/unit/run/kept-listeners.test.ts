import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, unlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { closeAll, inspectOne, namesSocket, type OwnedFd } from '../../../src/kernel/index.js'
import {
  adjustListener,
  bindListener,
  formatListenerSpec,
  parseListenerSpec,
} from '../../../src/listeners/index.js'
import { type FdStore, restorePassedSockets } from '../../../src/os/service-manager/passed-sockets.js'
import { StoredListeners } from '../../../src/run/shared-listeners.js'

const inodeOf = (fd: OwnedFd) => inspectOne(fd).ino

/** The store of a service manager, by name: several descriptors where they are several sockets. */
class Manager implements Pick<FdStore, 'keep' | 'drop'> {
  readonly kept = new Map<string, OwnedFd[]>()

  constructor() {
    onTestFinished(() => {
      closeAll([...this.kept.values()].flat())
      restorePassedSockets([])
    })
  }

  keep(name: string, fd: OwnedFd): void {
    const there = this.kept.get(name) ?? []
    if (!there.some(each => inodeOf(each) === inodeOf(fd))) this.kept.set(name, [...there, fd.dup()])
  }

  drop(name: string): void {
    closeAll(this.kept.get(name) ?? [])
    this.kept.delete(name)
  }

  get inodes() {
    return [...this.kept.values()].flat().map(inodeOf)
  }

  /** The next process has what there is. */
  next(): StoredListeners {
    const passed = [...this.kept].flatMap(([name, fds]) =>
      fds.map(fd => ({ name: `fdb.shop.${name}`, fd: fd.dup() })),
    )
    restorePassedSockets(passed)
    return new StoredListeners(this, 'shop')
  }
}

function folderOf(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-kept-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

/** A listener as a process has it that has it kept. */
function bound(text: string, kept: StoredListeners): { fd: OwnedFd; ino: unknown } {
  const spec = parseListenerSpec(text)
  const fd = bindListener(spec)
  kept.keep(formatListenerSpec(spec), fd)
  return { fd, ino: inodeOf(fd) }
}

describe('listeners that a service manager keeps', () => {
  it('close where no client can connect to them any more', () => {
    const text = `unix:${join(folderOf(), 'web.sock')}`
    const spec = parseListenerSpec(text)
    const manager = new Manager()
    bound(text, manager.next()).fd.close()
    unlinkSync(spec.path)
    const kept = manager.next()
    expect(kept.claim(formatListenerSpec(spec), spec)).toBeNull()
    expect(manager.inodes).toEqual([])
  })

  it.each([
    ['first', false],
    ['last', true],
  ])(
    'of one address are gone on with by the one that has it, which came %s; the others are closed',
    (_, turned) => {
      const text = `unix:${join(folderOf(), 'web.sock')}`
      const spec = parseListenerSpec(text)
      const manager = new Manager()
      const first = bound(text, manager.next())
      unlinkSync(spec.path)
      const second = bound(text, manager.next())
      const other = first.fd.dup()
      closeAll([first.fd, second.fd])
      // A release before this one left it there.
      const [[name = '', there = []] = []] = manager.kept
      manager.kept.set(name, turned ? [other, ...there] : [...there, other])
      const kept = manager.next()
      const taken = kept.claim(formatListenerSpec(spec), spec)!
      expect(inodeOf(taken)).toBe(second.ino)
      kept.keep(formatListenerSpec(spec), taken)
      taken.close()
      expect(manager.inodes).toEqual([second.ino])
    },
  )

  it('stay kept where another process has given the same one', () => {
    const text = `unix:${join(folderOf(), 'web.sock')}`
    const spec = parseListenerSpec(text)
    const manager = new Manager()
    const { fd, ino } = bound(text, manager.next())
    const kept = manager.next()
    kept.keep(formatListenerSpec(spec), fd)
    kept.discard()
    fd.close()
    expect(manager.inodes).toEqual([ino])
  })

  it.runIf(mayOverlay())(
    'continue, and are adjusted, on a file system that has another device for stat()',
    () => {
      const folder = overlay()
      const text = `unix:${join(folder, 'web.sock')}`
      const spec = parseListenerSpec(text)
      const manager = new Manager()
      const { fd, ino } = bound(text, manager.next())
      fd.close()
      const taken = manager.next().claim(formatListenerSpec(spec), spec)!
      expect(inodeOf(taken)).toBe(ino)
      expect(namesSocket(taken, spec.path)).toBeNull()
      expect(namesSocket(taken, folder)).toBe(false)
      const wanted = parseListenerSpec(`${text}?mode=0600`)
      expect(adjustListener(taken, inspectOne(taken), spec, wanted)).toEqual([
        { option: 'mode', applied: true },
      ])
      taken.close()
    },
  )
})

/** Over two file systems; of one alone the kernel and stat() name the same device. */
function overlay(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-overlay-'))
  const at = (name: string) => join(folder, name)
  const mount = (type: string, path: string, options: string) =>
    execFileSync('mount', ['-t', type, '-o', options, type, path], { stdio: 'ignore' })
  const undo: (() => void)[] = [() => rmSync(folder, { recursive: true, force: true })]
  const mounted = (path: string) => undo.unshift(() => execFileSync('umount', ['-l', path]))
  onTestFinished(() => {
    for (const each of undo) each()
  })
  mount('tmpfs', folder, 'size=1m')
  mounted(folder)
  for (const name of ['lower', 'upper', 'work', 'merged']) mkdirSync(at(name))
  mount('tmpfs', at('lower'), 'size=1m')
  mounted(at('lower'))
  mount('overlay', at('merged'), `lowerdir=${at('lower')},upperdir=${at('upper')},workdir=${at('work')}`)
  mounted(at('merged'))
  return at('merged')
}

function mayOverlay(): boolean {
  try {
    execFileSync(
      'unshare',
      [
        '--mount',
        'sh',
        '-c',
        'mount -t tmpfs t /tmp && cd /tmp && mkdir l u w m && mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m',
      ],
      { stdio: 'ignore' },
    )
    return process.geteuid?.() === 0
  } catch {
    return false
  }
}
