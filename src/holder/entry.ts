import type { OwnedFd } from '../kernel/index.js'
import { formatListenerSpec, type ListenerSpec, parseSentSpec } from '../listeners/index.js'
import type { BundleItem } from '../wire/bundle.js'

/** A named descriptor of a service. */
export type Entry = ListenerEntry | NamedEntry

export interface ListenerEntry {
  readonly role: 'listener'
  readonly name: string
  /** Null if the path of a Unix socket belongs to another process (a service manager, another worker), or if this release cannot parse the text. */
  readonly spec: ListenerSpec | null
  /** The specification as the process that opened the listener wrote it, which every later process passes on; '' if it wrote none. */
  readonly specText: string
  /** The registry's own descriptor; servers get dups of it. */
  readonly fd: OwnedFd
}

export interface NamedEntry {
  readonly role: 'named'
  readonly name: string
  /** Text for the holder of the descriptor, which the next holder gets too; otherwise ''. */
  readonly note: string
  readonly fd: OwnedFd
}

/** The texts of an entry in messages and notes. */
export interface EntryTexts {
  readonly role: Entry['role']
  readonly name?: string
  readonly spec?: string
}

/** `spec`: null if the path of a Unix socket belongs to another process. */
export function listenerEntry(name: string, spec: ListenerSpec | null, fd: OwnedFd): ListenerEntry {
  return { role: 'listener', name, spec, specText: spec === null ? '' : formatListenerSpec(spec), fd }
}

export function namedEntry(name: string, fd: OwnedFd, note = ''): NamedEntry {
  return { role: 'named', name, note, fd }
}

/** Parses an entry that another process has written. */
export function parseEntry({ role, name = '', spec = '' }: EntryTexts, fd: OwnedFd): Entry {
  return role === 'listener'
    ? { role, name, spec: parseSentSpec(spec), specText: spec, fd }
    : namedEntry(name, fd, spec)
}

export function entryTexts(entry: Entry): Required<EntryTexts> {
  const { name, role } = entry
  return { name, role, spec: role === 'listener' ? entry.specText : entry.note }
}

/** The item borrows the descriptor. */
export function entryItem(entry: Entry): BundleItem & Required<EntryTexts> {
  return { ...entryTexts(entry), fd: entry.fd }
}

/** Whether an item of a bundle is an entry of a service; otherwise it is a segment, or something else without a name. */
export function isEntryItem<T extends BundleItem>(item: T): item is T & EntryTexts {
  return item.role === 'listener' || item.role === 'named'
}
