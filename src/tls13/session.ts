/** The tag of the maximum fragment length in OpenSSL's encoding of a session (ASN.1). */
const FRAGMENT_LENGTH = 0xb1

/** Whether client and server have agreed on records that are shorter than 16 KiB (RFC 6066, 4). `session`: as `getSession()` returns it. */
export function hasShortRecords(session: Uint8Array | undefined): boolean {
  if (!session) return false
  const { at: first } = contentAt(session, 1)
  for (let at = first; at < session.length; ) {
    if (session[at] === FRAGMENT_LENGTH) return true
    const content = contentAt(session, at + 1)
    at = content.at + content.length
  }
  return false
}

/** Returns where the content begins whose length is encoded at `at`, and its length. */
function contentAt(bytes: Uint8Array, at: number): { at: number; length: number } {
  const first = bytes[at]!
  if (first < 0x80) return { at: at + 1, length: first }
  const end = at + 1 + (first & 0x7f)
  return { at: end, length: bytes.subarray(at + 1, end).reduce((length, byte) => length * 256 + byte, 0) }
}
