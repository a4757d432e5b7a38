import { FdbError } from '../errors.js'
import { firstNotStream, inspectOne, type OwnedFd } from '../kernel/index.js'

/** Decodes what another process has written. Throws ERR_FDB_CONNECTION when it is none of it. */
export function decoded<T>(decode: (record: Uint8Array) => T, record: Uint8Array): T {
  try {
    return decode(record)
  } catch (cause) {
    throw new FdbError(
      'ERR_FDB_CONNECTION',
      `the record of a connection (${record.length} bytes) cannot be read`,
      { cause },
    )
  }
}

/** The one descriptor of a TCP or Unix connection. Throws ERR_FDB_CONNECTION for anything else. */
export function onlyConnection(fds: readonly OwnedFd[]): OwnedFd {
  const [fd] = fds
  if (fds.length !== 1 || fd === undefined)
    throw new FdbError('ERR_FDB_CONNECTION', `a connection brought ${fds.length} descriptors; it has 1`)
  if (firstNotStream(fds) === null) return fd
  const { type, family = 'none', socketType = 'none', accepting = false } = inspectOne(fd)
  throw new FdbError(
    'ERR_FDB_CONNECTION',
    `a connection brought a ${accepting ? 'listening ' : ''}${type} (${family}, ${socketType}); it must be a connected TCP or Unix stream socket`,
  )
}
