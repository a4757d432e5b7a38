import { readlinkSync, renameSync, rmSync, statSync, symlinkSync } from 'node:fs'
import { FdbError } from '../errors.js'

/** A release that a link must point to. Both paths are absolute. */
export interface Release {
  /** The symbolic link that a server is started from. */
  readonly at: string
  readonly to: string
}

/** Targets of a release link and of the link beside it that keeps the previous release; null if there is none. */
export interface LinkTargets {
  readonly to: string
  readonly previous: string | null
}

/** Returns the targets of the link `at`; null if it is no link. */
export function linkTargets(at: string): LinkTargets | null {
  const to = targetOf(at)
  return to === null ? null : { to, previous: targetOf(previousOf(at)) }
}

function previousOf(at: string): string {
  return `${at}.previous`
}

/** Replaces each link atomically, `previous` first. Throws ERR_FDB_NO_BINARY, ERR_FDB_RELEASE_LINK. */
export function switchLink(at: string, { to, previous }: LinkTargets): void {
  if (statSync(to, { throwIfNoEntry: false }) === undefined)
    throw new FdbError('ERR_FDB_NO_BINARY', `there is no release at ${to}: give the path of its folder`, {
      details: { path: to },
    })
  try {
    if (previous === null) rmSync(previousOf(at), { force: true })
    else replaceLink(previousOf(at), previous)
    replaceLink(at, to)
  } catch (cause) {
    const { code = String(cause) } = cause as NodeJS.ErrnoException
    const why = `process ${process.pid} (uid ${process.geteuid?.()}) cannot switch the link ${at} to ${to} (${code}): give its user write access to the folder of the link`
    throw new FdbError('ERR_FDB_RELEASE_LINK', why, { cause, details: { path: at } })
  }
}

/** Replaces a symbolic link atomically. */
export function replaceLink(path: string, to: string): void {
  if (targetOf(path) === to) return
  const aside = `${path}.${process.pid}~`
  rmSync(aside, { force: true })
  symlinkSync(to, aside)
  try {
    renameSync(aside, path)
  } catch (error) {
    rmSync(aside, { force: true })
    throw error
  }
}

function targetOf(path: string): string | null {
  try {
    return readlinkSync(path)
  } catch {
    return null
  }
}
