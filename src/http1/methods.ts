/** The methods that are asked for, by length: their strings are made once. */
const BY_LENGTH: { name: string; bytes: Uint8Array }[][] = Array.from({ length: 8 }, () => [])
for (const name of ['GET', 'PUT', 'HEAD', 'POST', 'PATCH', 'TRACE', 'DELETE', 'OPTIONS', 'CONNECT']) {
  BY_LENGTH[name.length]!.push({ name, bytes: Buffer.from(name, 'latin1') })
}

/** The method that `bytes[start, end)` spells, letter by letter: methods are sensitive to case (RFC 9110, 9.1). */
export function methodOf(bytes: Buffer, start: number, end: number): string {
  const length = end - start
  const candidates = length < BY_LENGTH.length ? BY_LENGTH[length]! : []
  for (let c = 0; c < candidates.length; c++) {
    const { name, bytes: wanted } = candidates[c]!
    let i = 0
    while (i < length && bytes[start + i] === wanted[i]) i++
    if (i === length) return name
  }
  return bytes.toString('latin1', start, end)
}

/** Whether a request may be repeated without asking (RFC 9110, 9.2.2). */
export function isIdempotent(method: string): boolean {
  switch (method) {
    case 'GET':
    case 'HEAD':
    case 'OPTIONS':
    case 'PUT':
    case 'DELETE':
    case 'TRACE':
      return true
    default:
      return false
  }
}
