import { FdbError, type FdbErrorCode, FdbTypeError } from '../errors.js'
import { overLimit, type StateLimits } from './limits.js'

/** Throws a TypeError unless it is a string: 1 and "1" would be one entry to the log, and two to who wrote them. */
export function checkKey(key: unknown, section: string): asserts key is string {
  if (typeof key !== 'string')
    throw wrongKind('ERR_FDB_STATE_KEY', `section "${section}": a key`, key, 'String(key) makes one')
}

/** Of a key to be written. */
export function checkNewKey(key: unknown, section: string, { keyBytes }: StateLimits): asserts key is string {
  checkKey(key, section)
  if (key.length > keyBytes || (key.length * 3 > keyBytes && Buffer.byteLength(key) > keyBytes)) {
    throw overLimit('the length of a key', Buffer.byteLength(key), 'keyBytes', keyBytes)
  }
  if (/\p{Surrogate}/u.test(key)) {
    throw new FdbError('ERR_FDB_STATE_VALUE', 'a key with half a surrogate pair; keys are Unicode text')
  }
}

export function checkSectionName(name: unknown): asserts name is string {
  if (typeof name !== 'string') throw wrongKind('ERR_FDB_OPTION', 'the name of a section', name)
}

/** Empty: none was given. */
export function checkRequest(request: unknown, { requestBytes }: StateLimits): string {
  if (request === undefined) return ''
  if (typeof request !== 'string')
    throw wrongKind('ERR_FDB_OPTION', 'option "request"', request, 'String(id) makes one')
  const length = Buffer.byteLength(request)
  if (length > requestBytes)
    throw overLimit('the length of a request id', length, 'requestBytes', requestBytes)
  return request
}

function wrongKind(code: FdbErrorCode, what: string, got: unknown, remedy = ''): FdbTypeError {
  const kind = got === null ? 'null' : typeof got
  return new FdbTypeError(
    code,
    `${what} is of type ${kind}; give a string${remedy === '' ? '' : ` (${remedy})`}`,
  )
}
