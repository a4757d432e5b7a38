/** Values that several servers write alike. */

const UNITS: Record<string, number> = { us: 0.001, ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** Reads a time, as `1m30s`; a number without a unit has `unit`. Returns null for another text. */
export function timeOf(text: string, unit: 's' | 'ms'): string | null {
  if (!/^(?:\d+(?:us|ms|s|m|h|d)?)+$/.test(text)) return null
  let ms = 0
  for (const [, digits, of = unit] of text.matchAll(/(\d+)(us|ms|s|m|h|d)?/g))
    ms += Number(digits) * UNITS[of]!
  return timeText(Math.max(1, Math.round(ms)))
}

/** The text of a time in the proxy's configuration. */
export function timeText(ms: number): string {
  if (ms % 3_600_000 === 0) return `${ms / 3_600_000}h`
  if (ms % 60_000 === 0) return `${ms / 60_000}m`
  return ms % 1_000 === 0 ? `${ms / 1_000}s` : `${ms}ms`
}

export function millisecondsOf(text: string): number {
  const [, digits, unit] = /^(\d+)(\D+)$/.exec(text)!
  return Number(digits) * UNITS[unit!]!
}

/** Reads a size, as `10m`. Returns null for another text. */
export function sizeOf(text: string): string | null {
  const [, digits, unit = ''] = /^(\d+)([kmg]?)b?$/i.exec(text) ?? []
  return digits === undefined ? null : `${digits}${unit.toLowerCase()}`
}

const POWERS: Record<string, number> = { '': 0, k: 10, m: 20, g: 30 }

export function bytesOf(size: string): number {
  const [, digits, unit] = /^(\d+)(\D*)$/.exec(size)!
  return Number(digits) * 2 ** POWERS[unit!]!
}

/** The address of a listener from `8080`, `*:80`, `[::]:80`, `127.0.0.1:80` or `unix:/path`; null if it is none. All of a port are one address. */
export function listenerAddress(text: string, port = ''): string | null {
  if (text.startsWith('unix:')) return text
  if (text.startsWith('/')) return `unix:${text}`
  const [, host = '*', given = port] = /^(?:(\[[^\]]+\]|[^:]*):)?(\d+)?$/.exec(text) ?? [null, text]
  if (given === '') return null
  const any = host === '' || host === '*' || host === '0.0.0.0' || host === '[::]'
  const known = host === 'localhost' ? '127.0.0.1' : host
  if (!any && !/^(?:[\d.]+|\[[0-9a-f:.]+\])$/i.test(known)) return null
  return `tcp://${any ? '*' : known}:${given}`
}

/** Headers about framing, which the proxy itself says. */
export const FRAMING =
  /^(?:connection|content-length|date|expect|keep-alive|proxy-connection|te|trailer|transfer-encoding|upgrade)$/i

/** The entry of a server in `servers`, as short as it can be. */
export function serverEntry(address: string, weight: number | null, backup: boolean): unknown {
  const hasWeight = weight !== null && weight !== 1
  return hasWeight || backup ? { address, ...(hasWeight && { weight }), ...(backup && { backup }) } : address
}

type ServerEntry = string | { readonly address: string; readonly backup?: boolean }

/** Returns one entry for each address: the first that is no backup server, else the first. */
export function onePerAddress(entries: readonly unknown[]): unknown[] {
  const found = new Map<string, ServerEntry>()
  const isBackup = (entry: ServerEntry) => typeof entry === 'object' && entry.backup === true
  for (const entry of entries as readonly ServerEntry[]) {
    const address = typeof entry === 'string' ? entry : entry.address
    const known = found.get(address)
    if (known === undefined || (isBackup(known) && !isBackup(entry))) found.set(address, entry)
  }
  return [...found.values()]
}
