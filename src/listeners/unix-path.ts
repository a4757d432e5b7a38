import { linkSync, renameSync, unlinkSync } from 'node:fs'
import { namesSocket, type OwnedFd } from '../kernel/index.js'
import { parseListenerSpec } from './spec.js'

/**
 * Removes the path of a Unix listener that nobody needs any more, while its socket is still held: only then the kernel can say
 * whether the path is this socket's. What somebody else has put there is left alone, and so is all where the kernel does not say
 * (no unix_diag, an overlay file system). Never throws; answers whether it was removed.
 */
export function removeUnixPath(fd: OwnedFd, spec: string): boolean {
  try {
    const { kind, path, abstract } = parseListenerSpec(spec)
    if (kind !== 'unix' || abstract || namesSocket(fd, path) !== true) return false
    return removeAside(fd, path)
  } catch {
    // It may not be removed by us, or was meanwhile.
    return false
  }
}

/** Whether it is the socket that the path of this specification leads to; not known of one of another release that this one cannot read. */
export function isAt(fd: OwnedFd, spec: string): boolean {
  try {
    const { kind, path, abstract } = parseListenerSpec(spec)
    return kind === 'unix' && !abstract && namesSocket(fd, path) === true
  } catch {
    return false
  }
}

/** Looked at again under another name: another process may have put its own there in between, which goes back. */
function removeAside(fd: OwnedFd, path: string): boolean {
  const aside = `${path}.closed-${process.pid}`
  renameSync(path, aside)
  const own = namesSocket(fd, aside) === true
  try {
    if (!own) linkSync(aside, path)
  } finally {
    unlinkSync(aside)
  }
  return own
}
